// A codebook as the kernels read it: packed panels, float64 half norms, and the bounds that error margins need.
#pragma once
#include <cstdint>

namespace genrec {

constexpr int rq_block_rows = 96;  // rows that are coded together; no instruction set takes more

// A level as the kernel reads it.
struct RqLevel {
  const float* codebook;
  std::int64_t num_codes;
  float* panels;            // packed (core/gemm.h), or null: few rows, no packing
  std::uint16_t* panels16;  // the same in bfloat16, or null
  // What products subtract from codes and residuals alike (null: nothing). Distances do not change, but what all codes
  // have in common no longer drowns their differences in rounding. Panels and starts are those of c' = c - centre.
  const float* centre;
  float* starts;       // [panels * width]: -|c'|^2 / 2; -inf behind the last code and where a code equals a lower one
  double* half_norms;  // [num_codes]: |c|^2 / 2 as defined
  float norm;          // bounds, rounded up: max |c|
  float spread;        // max |c'|
  float spread16;      // max |c' as bfloat16|
  float rounding16;    // max |c' - c' as bfloat16|
};

struct RqSizes {
  std::int64_t panel_width, chunk, tile_rows, block_rows;
  bool bfloat16;  // the set multiplies bfloat16
};

}  // namespace genrec
