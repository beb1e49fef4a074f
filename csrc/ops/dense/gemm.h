// The micro-kernel of core/gemm.h by itself: out[i][j] = start[j] + sum over d of a[i][d] b[j][d].
//
// `b` is packed once. A packed matrix is one block of memory that says what it is: a header of 64 bytes (panel width,
// element size, columns, depth, each int64), then the panels. The panel width is the instruction set's, so a block
// packed under one set may be refused under another.
#pragma once
#include <cstdint>

namespace genrec {

// element_size: 4 float32; 2 bfloat16 (two products per lane; only where the set multiplies it: UnsupportedError);
// 1 int8 (core/gemm_int8.h): behind the panels stand each column's scale (float32) and sum of weights (int32), both for
// whole panels; depth is at most max_int8_depth, so that sums stay exact.
constexpr std::int64_t max_int8_depth = 65536;
std::int64_t gemm_pack_size(std::int64_t num_columns, std::int64_t depth, int element_size);  // bytes, header included

// b: float32 [num_columns, depth]; packed: gemm_pack_size bytes.
void gemm_pack(const float* b, std::int64_t num_columns, std::int64_t depth, int element_size, int num_threads,
               void* packed);

struct GemmArgs {
  const void* a;  // [num_rows, depth], rows end to end; bfloat16 rows are depth made even long, 0 behind; int8: float32
  std::int64_t num_rows, depth;
  const void* packed;
  std::int64_t packed_bytes, num_columns;
  int element_size;
  const float* start;  // [num_columns] or null: 0
  int num_threads;
  float* out;  // [num_rows, num_columns], overlaps nothing
};

// Throws ValueError where the block is not a packed matrix of this size, or was packed for another set.
void gemm(const GemmArgs& args);

// ---- between gemm.cpp and gemm_cpu.cpp

struct GemmHeader {
  std::int64_t panel_width, element_size, num_columns, depth, reserved[4];
};

struct GemmSizes {
  std::int64_t panel_width, tile_rows, chunk_panels;
  bool bfloat16;
};

// Of a packed int8 matrix, behind the header.
struct GemmInt8Block {
  std::int64_t depth, columns;  // padded: depth to groups of four, columns to panels
  std::int64_t scales() const { return depth * columns; }
  std::int64_t sums() const { return scales() + columns * 4; }
  std::int64_t bytes() const { return sums() + columns * 4; }
};

struct GemmRows {  // what a product reads: floats or bfloat16 as given, or bytes with a scale per row
  const void* rows;
  std::int64_t stride;
  const float* scales;
};

}  // namespace genrec
