// Which rows of a trie pass a filter, as in csrc/ops/trie/trie_filter.h: a subtree covers a range of rows, so whether
// anything in it passes takes two look-ups of the bits and two searches in the user's list.
#pragma once
#include "trie.cuh"

struct RowFilter {                    // python/genrec_fast/ops/_cuda_trie.py writes the same
  const unsigned long long* bits;     // [users, words]: bit r % 64 of word r / 64; null: every row is allowed
  const int* ranks;                   // [users, words]: allowed rows before the word
  long long words, users;             // users: 1 or B
  const int* excluded;                // ascending allowed rows per user
  const long long* excluded_offsets;  // [B + 1], or null: no lists
  long long num_excluded;
};

DEVICE_INLINE bool is_filtered(const RowFilter& filter) { return filter.bits || filter.excluded_offsets; }

// Whether the user's list lies within all of them; -1 is the first of one that trie_filter refused.
DEVICE_INLINE bool has_whole_list(const RowFilter& filter, long long user) {
  if (!filter.excluded_offsets) return true;
  const long long begin = filter.excluded_offsets[user], end = filter.excluded_offsets[user + 1];
  return 0 <= begin && begin <= end && end <= filter.num_excluded && (begin == end || filter.excluded[begin] >= 0);
}

// Allowed rows before `row`; `row` may be the number of rows.
DEVICE_INLINE long long allowed_before(const RowFilter& filter, long long user, long long row) {
  const long long word = (filter.users > 1 ? user * filter.words : 0) + (row >> 6);
  return filter.ranks[word] + __popcll(filter.bits[word] & ((1ull << (row & 63)) - 1));
}

// How many of the rows [begin, end) of `excluded` are below `row`.
DEVICE_INLINE long long excluded_before(const RowFilter& filter, long long begin, long long end, long long row) {
  long long first = begin, length = end - begin;
  while (length > 0) {
    const long long half = length >> 1;
    const bool below = filter.excluded[first + half] < row;
    first += below ? half + 1 : 0;
    length = below ? length - half - 1 : half;
  }
  return first - begin;
}

// Whether any row below the edge of the trie's first level passes.
DEVICE_INLINE bool passes(const Trie& trie, const RowFilter& filter, long long user, long long edge) {
  long long low = edge, high = edge + 1;
  for (int l = 1; l < trie.num_levels; ++l) {
    low = offset_at(trie.levels[l].child, low);
    high = offset_at(trie.levels[l].child, high);
    if (low < 0 || low >= high || high > trie.levels[l].num_edges) return false;
  }
  long long count = high - low;
  if (filter.bits) count = allowed_before(filter, user, high) - allowed_before(filter, user, low);
  if (filter.excluded_offsets && count > 0) {
    if (!has_whole_list(filter, user)) return false;
    const long long begin = filter.excluded_offsets[user], end = filter.excluded_offsets[user + 1];
    count -= excluded_before(filter, begin, end, high) - excluded_before(filter, begin, end, low);
  }
  return count > 0;
}
