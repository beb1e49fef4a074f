// Prefixes of semantic IDs -> nodes, one thread a prefix: a binary search among a node's edges per level.
#include "trie.cuh"

template <class Code>
DEVICE_INLINE void trie_lookup(const Trie& trie, const Code* codes, long long count, int length, int* nodes) {
  const long long prefix = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (prefix >= count) return;
  long long node = 0;
  for (int l = 0; l < length && node >= 0; ++l)
    node =
        find_edge(trie.levels[l], edges_of(trie.levels[l], node), static_cast<long long>(codes[prefix * length + l]));
  nodes[prefix] = static_cast<int>(node);
}

extern "C" __global__ void trie_lookup_int32(Trie trie, const int* codes, long long count, int length, int* nodes) {
  trie_lookup(trie, codes, count, length, nodes);
}
extern "C" __global__ void trie_lookup_int64(Trie trie, const long long* codes, long long count, int length,
                                             int* nodes) {
  trie_lookup(trie, codes, count, length, nodes);
}
