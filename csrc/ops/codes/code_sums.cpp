#include "ops/codes/code_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/isa.h"

GENREC_PER_ISA(bool codes_are_scores(const float* x, std::int64_t count);)

namespace genrec {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

}  // namespace

void code_rests(const CodeSums& sums, const float* logprobs, std::int64_t num_bars, double* rests) {
  std::fill_n(rests, num_bars + 1, 0.0);
  double sizes = 0.0;  // of the largest scores: what rounding is measured by
  for (std::int64_t level = sums.num_levels - 1; level >= 0; --level) {
    float most = -infinity, size = 0.0f;
    for (std::int64_t at = sums.bases[level]; at < sums.bases[level + 1]; ++at) {
      most = std::max(most, logprobs[at]);
      if (logprobs[at] > -infinity) size = std::max(size, std::fabs(logprobs[at]));
    }
    sizes += size;
    const std::int64_t bars = std::min(num_bars, level / check_levels);  // those in front of this level
    for (std::int64_t j = 0; j < bars; ++j) rests[j] += most;
  }
  // Both sums, to the bar and to the end, are off by at most levels * 2^-24 * sizes; twice that, to be sure.
  rests[num_bars] = static_cast<double>(sums.num_levels) * 0x1p-22 * sizes;
}

void set_bars(CodeBest& best, float threshold, const double* rests, std::int64_t num_bars) {
  best.bars[num_bars * best.stride] = threshold;
  for (std::int64_t j = 0; j < num_bars; ++j) {
    const double bar = static_cast<double>(threshold) - rests[j] - rests[num_bars];
    // -inf - -inf: a level without any code that can be: nothing is cut off. Below the float that it rounds to.
    best.bars[j * best.stride] = std::isfinite(bar) ? static_cast<float>(bar - std::fabs(bar) * 0x1p-22) : -infinity;
  }
}

void check_logprobs(const char* op, const CodeSums& sums) {
  for (std::int64_t b = 0; b < sums.num_users; ++b)
    check(GENREC_DISPATCH(codes_are_scores(sums.logprobs + b * sums.width, sums.width)), op,
          ": logprobs must be finite or -inf, got NaN or infinity in row ", b);
}

void refuse_codes(const char* op, const CodeSums& sums, std::int64_t first, std::int64_t last) {
  for (std::int64_t n = first; n < last; ++n)
    for (std::int64_t level = 0; level < sums.num_levels; ++level) {
      const std::int64_t at = n * sums.num_levels + level, size = sums.bases[level + 1] - sums.bases[level];
      const std::int64_t code = sums.code_bytes == 1 ? static_cast<const std::uint8_t*>(sums.item_codes)[at]
                                                     : static_cast<const std::int32_t*>(sums.item_codes)[at];
      check(code >= 0 && code < size, op, ": item_codes of level ", level, " must be in [0, ", size, "), got ", code,
            " for item ", n);
    }
  throw ValueError(message(op, ": item_codes must not change during the call"));
}

}  // namespace genrec
