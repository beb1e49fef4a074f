// All levels of codebooks, checked and prepared for the kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "ops/rq_level.h"

namespace genrec {

RqSizes rq_sizes(std::int64_t depth);  // of the active instruction set

// Memory: 1 (packed) or 1.5 (bfloat16 beside it) times the codebooks, and once more for those that are centered.
class RqLevels {
 public:
  struct Options {
    const char* op;  // for messages
    bool packed, bfloat16;
    bool centered;         // where codes lie far from 0 but close together, products are of differences from a center
    bool first_of_equals;  // only the lowest of equal codes can win: the others' starts are -inf
    int num_threads;
  };
  // Throws ValueError where a code is not finite.
  RqLevels(const float* const* codebooks, const std::int64_t* num_codes, int num_levels, std::int64_t depth,
           const Options& options);
  const RqLevel* data() const { return levels_.data(); }
  bool centered() const { return centered_; }                  // any level
  std::int64_t most_columns() const { return most_columns_; }  // of any level, all its panels

 private:
  Memory memory_;
  std::vector<RqLevel> levels_;
  std::int64_t most_columns_ = 0;
  bool centered_ = false;
};

}  // namespace genrec
