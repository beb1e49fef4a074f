// From the rows of a trie that a search kept to the items that a user is shown.
#pragma once
#include <cstdint>

#include "ops/trie/trie.h"

namespace genrec {

struct ExpandRows {
  const std::int32_t* rows;   // [num_users, num_beams], -1: none; no row twice for a user
  const std::int32_t* codes;  // [num_users, num_beams, num_levels]
  const float* scores;        // [num_users, num_beams]
  const void* ranks;          // [num_users, num_beams]: what items are ordered by, the largest first
  int rank_bytes;             // 4: float, 8: double
  std::int64_t num_users, num_beams, num_levels;
  PackedOffsets leaf;  // items of row r: leaf_items[off(r) .. off(r + 1))
  const std::int32_t* leaf_items;
  std::int64_t num_rows, num_items;
  // Item n may be shown to user b where allowed[b * allowed_stride + n] != 0; null: every item.
  const std::uint8_t* allowed;
  std::int64_t allowed_stride;
  // Ids exclude_ids[exclude_offsets[b] .. exclude_offsets[b + 1]), in any order, are not shown to user b; null: none.
  const std::int64_t* exclude_offsets;  // [num_users + 1]
  const std::int64_t* exclude_ids;
  std::int64_t num_excluded;  // of exclude_ids
  std::int64_t k;
  int num_threads;
  std::int64_t* items;        // out [num_users, k], -1 behind the last
  std::int32_t* found_codes;  // out [num_users, k, num_levels], of an item's row; -1
  float* found_scores;        // out [num_users, k]; -inf
};

// Every item of a row has the row's score and rank; the best k of those that may be shown, a higher rank first, then a
// lower id. A rank that is NaN stands above all others, as in torch's sort.
//
// Throws ValueError where a row, a leaf or an excluded id is not there, or offsets are none.
// Cost: the items of rows whose rank can still be among the k best, and their order; memory for 4 k of them, at most
// as many as there are.
void expand_rows(const ExpandRows& args);

}  // namespace genrec
