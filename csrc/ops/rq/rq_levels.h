// All levels of codebooks, checked and prepared for the kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/memory.h"
#include "ops/rq/rq_encode.h"
#include "ops/rq/rq_level.h"

namespace genrec {

RqSizes rq_sizes(std::int64_t depth);  // of the active instruction set

// Memory: 1 (packed) or 1.5 (bfloat16 beside it) times the codebooks.
class RqLevels {
 public:
  struct Options {
    const char* op;         // for messages
    bool packed, bfloat16;  // bfloat16 beside float32, where the set multiplies it
    bool centred;           // products may subtract from a level's codes what they have in common
    bool first_of_equals;   // only the lowest of equal codes can win: the others' starts are -inf
    int num_threads;
  };
  // Throws ValueError where a code is not finite.
  RqLevels(const float* const* codebooks, const std::int64_t* num_codes, int num_levels, std::int64_t depth,
           const Options& options);
  const RqLevel* data() const { return levels_.data(); }
  std::int64_t most_columns() const { return most_columns_; }  // of any level, all its panels
  int num_levels() const { return static_cast<int>(levels_.size()); }
  bool centred() const;   // any of them
  bool bfloat16() const;  // all of them, then

 private:
  Memory memory_;
  std::vector<RqLevel> levels_;
  std::int64_t most_columns_ = 0;
};

// One thread's memory for `rq_encode_rows`.
class RqWorkspace {
 public:
  RqWorkspace(const RqLevels& levels, std::int64_t depth);
  const RqScratch& scratch() const { return scratch_; }

 private:
  Memory residual_, centred_, residual16_, scores_, too_coarse_;
  RqScratch scratch_;
};

}  // namespace genrec
