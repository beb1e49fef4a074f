// Codes -> vectors: the sum of one codebook row per level.
#pragma once
#include <cstdint>

namespace genrec {

struct RqDecodeArgs {
  const void* codes;  // [num_rows, num_levels], contiguous, of code_size bytes
  int code_size;      // 4 (int32) or 8 (int64)
  std::int64_t num_rows, depth;
  int num_levels;
  const float* const* codebooks;  // per level float32 [num_codes[l], depth], contiguous
  const std::int64_t* num_codes;
  float* out;  // [num_rows, depth]; aliases nothing
};

// out[n][d] = ((0 + c_0[d]) + c_1[d]) + ..., c_l = row codes[n][l] of codebook l; float32, in the order of the levels.
// Throws ValueError where a code is outside its codebook. Cost: num_rows * depth * num_levels additions.
void rq_decode(const RqDecodeArgs& args, int num_threads);

// ---- between rq_decode.cpp and rq_decode_cpu.cpp

// Rows [first, last); `chosen` has room for num_levels pointers. Returns row * num_levels + level of the first code
// that is outside its codebook, or -1; nothing is written for that row and those behind it.
using RqDecodeFault = std::int64_t;

}  // namespace genrec
