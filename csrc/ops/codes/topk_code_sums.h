// The k items of every user whose codes have the highest sum of scores: every item is looked at.
#pragma once
#include <cstdint>

#include "ops/codes/code_sums.h"

namespace genrec {

struct TopkCodeSums {
  CodeSums sums;
  std::int64_t k;  // at least 1
  // Item n may be found by user b where allowed[b * allowed_stride + n] != 0; null: every item.
  const std::uint8_t* allowed;
  std::int64_t allowed_stride;
  // Ascending ids exclude_ids[exclude_offsets[b] .. exclude_offsets[b + 1]) are not found by user b; null: none.
  const std::int64_t* exclude_offsets;  // [num_users + 1]
  const std::int64_t* exclude_ids;
  std::int64_t num_excluded;  // of exclude_ids
  int num_threads;
  float* scores;      // out [num_users, k], -infinity behind the last
  std::int64_t* ids;  // out [num_users, k], -1 behind the last
};

// The k best by `score` of code_sums.h; order: higher score, then lower id; a score of -infinity is not found.
//
// Throws ValueError where a score is NaN or infinity, a code lies outside its level, or offsets are none.
// Cost: at most num_users * num_items * num_levels additions, sixteen users at a time; an item is left as soon as the
// best that its other levels could add does not lift it to the k-th best so far. The codes are read once per 16 users.
// Memory per thread: 64 * width bytes, and about 2 k + 16 entries a user.
void topk_code_sums(const TopkCodeSums& args);

}  // namespace genrec
