// Where the nodes of a small trie stand among those of a large one, as csrc/ops/trie/trie_places.h says: one launch a
// level, `lanes` threads a node, which take its edges in turn. A level reads what the one before it wrote.
#include "trie.cuh"

// The first edge of the range whose code is no smaller, or its end.
DEVICE_INLINE long long lower_edge(const TrieLevel& level, EdgeRange range, int code) {
  long long low = range.begin, length = range.end - range.begin;
  while (length > 0) {
    const long long half = length >> 1;
    const bool less = token_at(level, low + half) < code;
    low += less ? half + 1 : 0;
    length = less ? length - half - 1 : half;
  }
  return low;
}

// The children of the large trie's node `before`; none, at the place where they would stand, if it is not shared.
DEVICE_INLINE EdgeRange children_at(const TrieLevel& level, long long before, bool shared) {
  if (shared) return edges_of(level, before);
  if (before < 0 || before >= level.child.count) return {0, 0};
  const long long begin = offset_at(level.child, before);
  const long long place = begin < 0 ? 0 : begin < level.num_edges ? begin : level.num_edges;
  return {place, place};
}

// `before` and `shared` of the level before (null at the first), and of this one, which are 0: an altered trie leaves
// edges out. `lanes` is a power of two, 1 << log_lanes.
extern "C" __global__ void __launch_bounds__(256)
    trie_places(Trie base, Trie added, int level, int log_lanes, const int* node_before,
                const unsigned char* node_shared, int* before, unsigned char* shared) {
  const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x, node = thread >> log_lanes;
  const long long lanes = 1ll << log_lanes;
  const TrieLevel& large = base.levels[level];
  const TrieLevel& small = added.levels[level];
  if (node + 1 >= small.child.count) return;
  const EdgeRange here = edges_of(small, node);
  if (here.begin == here.end) return;
  const EdgeRange there =
      node_before ? children_at(large, node_before[node], node_shared[node] != 0) : edges_of(large, 0);
  for (long long edge = here.begin + (thread & (lanes - 1)); edge < here.end; edge += lanes) {
    const int code = token_at(small, edge);
    const long long place = lower_edge(large, there, code);
    before[edge] = static_cast<int>(place);
    shared[edge] = place < there.end && token_at(large, place) == code;
  }
}
