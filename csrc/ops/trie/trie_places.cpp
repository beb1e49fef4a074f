#include "ops/trie/trie_places.h"

#include <algorithm>

#include "core/check.h"
#include "ops/trie/trie_shape.h"

namespace genrec {
namespace {

// The first edge of the range whose code is no smaller, or its end. Codes are spread over the codebook, so the search
// begins where an even spread would have the code and doubles its steps from there: mostly one cache line is read.
std::int64_t lower_edge(const TrieLevel& level, EdgeRange range, int code) {
  std::int64_t low = range.begin, high = range.end, step = 8;
  if (low == high) return low;
  const std::int64_t guess = std::min(low + (high - low) * code / level.codebook_size, high - 1);
  if (token_at(level, guess) < code) {
    low = guess + 1;
    for (; low + step < high && token_at(level, low + step) < code; step *= 2) low += step + 1;
    high = std::min(high, low + step);
  } else {
    high = guess;
    for (; high - step >= low && token_at(level, high - step) >= code; step *= 2) high -= step;
    low = std::max(low, high - step);
  }
  while (low < high) {
    const std::int64_t middle = low + ((high - low) >> 1);
    if (token_at(level, middle) < code)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Nodes lie far apart in memory: their offsets are asked for eight nodes ahead, their tokens four.
void fetch(const TrieLevel& level, const std::int32_t* before, std::int64_t node, std::int64_t count) {
  if (node + 8 < count) {
    const std::int64_t ahead = before[node + 8];
    __builtin_prefetch(level.child.bases + (ahead >> offset_block_bits));
    __builtin_prefetch(static_cast<const char*>(level.child.deltas) + ahead * level.child.width);
  }
  if (node + 4 < count) {
    const std::int64_t begin = offset_at(level.child, before[node + 4]);
    __builtin_prefetch(static_cast<const char*>(level.tokens) + begin * level.token_width);
  }
}

// The children of the base's node `before`; none, at the place where they would stand, if it is not shared.
EdgeRange children(const TrieLevel& level, std::int64_t before, bool shared) {
  if (shared) return edges_of(level, before);
  const std::int64_t begin = std::clamp<std::int64_t>(offset_at(level.child, before), 0, level.num_edges);
  return {begin, begin};
}

}  // namespace

void trie_places(const TrieView& base, const TrieView& added, std::int32_t* const* before, bool* const* shared) {
  check_trie("trie_places", base);
  check_trie("trie_places", added);
  check(base.num_levels == added.num_levels, "trie_places: added must have ", base.num_levels,
        " levels like base, got ", added.num_levels);
  for (int l = 0; l < base.num_levels; ++l) {
    const TrieLevel& large = base.levels[l];
    // An altered trie leaves out edges, which the next level follows all the same.
    std::fill_n(before[l], added.levels[l].num_edges, 0);
    std::fill_n(shared[l], added.levels[l].num_edges, false);
    for (std::int64_t node = 0; node < added.levels[l].num_nodes; ++node) {
      if (l > 0) fetch(large, before[l - 1], node, added.levels[l].num_nodes);
      const EdgeRange here = edges_of(added.levels[l], node);
      const EdgeRange there = children(large, l == 0 ? 0 : before[l - 1][node], l == 0 || shared[l - 1][node]);
      for (std::int64_t edge = here.begin; edge < here.end; ++edge) {
        const int code = token_at(added.levels[l], edge);
        const std::int64_t place = lower_edge(large, there, code);
        before[l][edge] = static_cast<std::int32_t>(place);
        shared[l][edge] = place < there.end && token_at(large, place) == code;
      }
    }
  }
}

}  // namespace genrec
