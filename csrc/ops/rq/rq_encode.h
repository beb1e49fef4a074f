// Vectors -> codes, one level of codebooks after the other.
//
//   r = x;  for each level l:  code_l = lowest k of the smallest |c_k|^2 / 2 - r c_k;  r = r - c_code
//
// The winner is defined in float64 with sums in 16 lanes (see ops/reference/rq_encode.py). Fast products, float32 or
// bfloat16, only say which codes can win: all within twice the proven error of the best. Mostly that is one code; else
// the few are scored again, in float32 and then as defined. So every instruction set, precision and number of threads
// gives the same codes.
#pragma once
#include <cstdint>

#include "ops/rq/rq_level.h"

namespace genrec {

enum class RqElement : int { float32 = 0, bfloat16 = 1, float16 = 2 };

struct RqEncodeArgs {
  const char* op;  // for messages
  const void* x;   // [num_rows, depth] of `element`, rows end to end
  RqElement element;
  std::int64_t num_rows, depth;
  int num_levels;
  const float* const* codebooks;  // per level float32 [num_codes[l], depth]
  const std::int64_t* num_codes;  // each 1 to 65536
  int num_beams;                  // W: 1 is greedy
  bool bfloat16;                  // greedy: shortlist in bfloat16 where the instruction set has it
  int num_threads;
  std::int32_t* codes;  // out [num_rows, num_levels]
};

// Throws ValueError where a row of x or a codebook is not finite, or a residual leaves float32.
// Cost: num_rows * depth * sum(num_codes) multiply-adds; memory for packed codebooks: their size, half as
// much again with bfloat16.
void rq_encode(const RqEncodeArgs& args);

// ---- between rq_encode.cpp and rq_encode_cpu.cpp

struct RqScratch {
  float* residual;            // [rows of a block, depth]
  float* centred;             // the same, or null where no level has a centre
  std::uint16_t* residual16;  // [rows of a block, depth made even], or null
  float* scores;              // [rows of a tile, chunk]
  std::int64_t chunk;         // columns scored before they are searched
  std::uint8_t* too_coarse;   // [num_levels], 0 at first: where bfloat16 leaves too many codes to be of use
};

struct RqFault {
  std::int64_t row;  // -1: none
  int level;         // -1: x itself; else the residual behind this level
};

void rq_check(const RqEncodeArgs& args, const RqFault& fault);  // throws what the fault says

}  // namespace genrec
