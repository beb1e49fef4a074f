// Products of jagged rows with matrices; rows, offsets and costs as in jagged_pack.h.
#pragma once
#include <cstdint>

namespace genrec {

struct JaggedProduct {
  const std::int64_t* offsets;  // [num_rows + 1]
  std::int64_t num_rows, depth, num_columns;
  bool transposed;
  int num_threads;
};
// out[e][m] = bias[r][m] + sum over k < depth of values[e][k] dense[r][k][m], for element e of row r, m < num_columns;
// transposed: of dense[r][m][k]. bias [num_rows, num_columns] or null: 0.
void jagged_dense_matmul(const JaggedProduct& args, const float* values, const float* dense, const float* bias,
                         float* out);
// out[r][k][m] = sum over elements e of row r of a[e][k] b[e][m]; k < depth, m < num_columns.
void jagged_jagged_matmul(const JaggedProduct& args, const float* a, const float* b, float* out);

// ---- between jagged_product.cpp and the body, which stands in jagged_pack_cpu.cpp

struct ProductSizes {
  std::int64_t panel_width, chunk;  // chunk: columns of the packed side at a time
};
constexpr std::int64_t product_depth_block = 256;  // elements of a row at a time in jagged_jagged_matmul

}  // namespace genrec
