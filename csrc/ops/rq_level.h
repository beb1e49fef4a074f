// A codebook as the kernels read it: packed panels, float64 half norms, and the bounds that error margins need.
#pragma once
#include <cstdint>

namespace genrec {

constexpr int rq_block_rows = 96;  // rows that are coded together; no instruction set takes more

// A level as the kernel reads it.
struct RqLevel {
  const float* codebook;
  std::int64_t num_codes;
  const float* center;      // [depth], or null: the products read r - center and c - center, see rq_search.h
  const float* shifted;     // c - center, [num_codes, depth]; the codebook itself where there is no center
  float* panels;            // packed (core/gemm.h), or null: few rows, no packing
  std::uint16_t* panels16;  // the same in bfloat16, or null
  float* starts;  // [panels * width]: -|shifted c|^2 / 2; -inf behind the last code and where a code equals a lower one
  double* half_norms;  // [num_codes]: |c|^2 / 2 as defined
  float reach;         // bounds, rounded up: max |c|
  float norm;          // max |shifted c|
  float norm16;        // max |shifted c as bfloat16|
  float rounding16;    // max |shifted c - the same as bfloat16|
};

struct RqSizes {
  std::int64_t panel_width, chunk, tile_rows, block_rows;
  bool bfloat16;  // the set multiplies bfloat16
};

}  // namespace genrec
