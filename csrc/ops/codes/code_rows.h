// Sums of code scores, a few items at a time. Included by per-ISA files alone.
#pragma once
#include <cstdint>

#include "core/vec.h"
#include "ops/codes/code_sums.h"

namespace genrec::GENREC_ISA {

// Items summed side by side: an addition takes four cycles, and two loads go with each (12,101 items, 32 levels of 256,
// one user: 4 side by side 0.33 ms, 8 0.23).
constexpr int items_together = 8;

// Whether each of one item's codes lies in its level.
template <class Code>
inline bool codes_fit(const Code* codes, const std::int64_t* bases, std::int64_t levels) {
  bool wrong = false;
  for (std::int64_t l = 0; l < levels; ++l)
    wrong |= static_cast<std::uint64_t>(static_cast<std::int64_t>(codes[l])) >=
             static_cast<std::uint64_t>(bases[l + 1] - bases[l]);
  return !wrong;
}

// The sums of items_together items; false: none of them reaches the user's threshold, and some were not summed up.
template <class Code>
GENREC_INLINE bool sums_of(const float* logprobs, const Code* const (&rows)[items_together], const CodeSums& sums,
                           const CodeBest& best, float (&out)[items_together]) {
  for (float& sum : out) sum = 0.0f;
  std::int64_t level = 0;
  for (std::int64_t bar = 0; level < sums.num_levels; ++bar) {
    std::int64_t until = level + check_levels;
    const bool whole = until <= sums.num_levels;
    if (!whole) until = sums.num_levels;
    for (; level < until; ++level) {
      const float* own = logprobs + sums.bases[level];
      for (int i = 0; i < items_together; ++i) out[i] = out[i] + own[rows[i][level]];
    }
    if (!whole) break;
    const float least = best.bars[bar * best.stride];
    bool any = false;
    for (int i = 0; i < items_together; ++i) any |= out[i] >= least;
    if (!any) return false;
  }
  return true;
}

}  // namespace genrec::GENREC_ISA
