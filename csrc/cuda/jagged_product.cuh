// Products of jagged rows with matrices, float32. A block takes 64 elements of a row (or 64 rows of a row's sum of
// outer products) and 64 columns; warps own 16 of those rows each, as in attention_tile.cuh.
#pragma once
#include "attention_tile.cuh"

namespace jagged {

using attention::Offset;
using LongTeam = attention::Team<4>;
constexpr int tile = 64, step = attention::row_step<float, tile>;

// The lane's places of 16 rows by 64 columns, from shared memory; turned: of the transposed matrix.
DEVICE_INLINE void take(float (&x)[tile / 8][4], const float* rows, bool turned, int lane) {
#pragma unroll
  for (int n = 0; n < tile / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + e / 2 * 8, column = n * 8 + lane % 4 * 2 + e % 2;
      x[n][e] = turned ? rows[column * step + row] : rows[row * step + column];
    }
}

DEVICE_INLINE void fill_not_a_number(float* out, Offset count) {
  const Offset threads = static_cast<Offset>(gridDim.x) * gridDim.y * blockDim.x;
  Offset i = (static_cast<Offset>(blockIdx.y) * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i < count; i += threads) out[i] = attention::not_a_number();
}

struct Product {
  const Offset* offsets;
  Offset num_rows, count;  // elements
  int depth, columns, transposed, whole_vectors;
};

// out[e] = bias[r] + values[e] dense[r] (transposed: dense[r]^T). Blocks: (tiles of elements, tiles of columns).
DEVICE_INLINE void rows_by_matrix(const Product& args, const float* values, const float* dense, const float* bias,
                                  float* out, const Offset* valid) {
  DEVICE_SHARED(float, memory);
  if (!valid[0]) return fill_not_a_number(out, args.count * args.columns);
  const LongTeam team;
  const Offset slot = blockIdx.x;
  Offset row = 0, above = args.num_rows;  // the last row whose first tile is not behind this one
  while (above - row > 1) {
    const Offset middle = row + (above - row) / 2;
    if (args.offsets[middle] / tile + middle <= slot)
      row = middle;
    else
      above = middle;
  }
  const Offset first = args.offsets[row] + (slot - args.offsets[row] / tile - row) * tile;
  const Offset left = args.offsets[row + 1] - first;
  if (left <= 0) return;
  const int count = left < tile ? static_cast<int>(left) : tile, column = static_cast<int>(blockIdx.y) * tile;
  const int columns = attention::smaller(args.columns - column, tile);
  float *a = memory, *b = memory + tile * step;
  const float* matrix = dense + row * args.depth * args.columns;
  const float* from = values + first * args.depth;
  float sums[tile / 8][4];
#pragma unroll
  for (int n = 0; n < tile / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int c = n * 8 + team.lane % 4 * 2 + e % 2;
      sums[n][e] = bias && c < columns ? bias[row * args.columns + column + c] : 0.0f;
    }
  for (int k = 0; k < args.depth; k += tile) {
    const int depth = attention::smaller(args.depth - k, tile);
    if (k > 0) team.sync();
    attention::fetch_rows<float, tile, tile>(team, a, from + k, args.depth, count, depth, args.whole_vectors != 0);
    if (args.transposed)
      attention::fetch_rows<float, tile, tile>(team, b, matrix + static_cast<Offset>(column) * args.depth + k,
                                               args.depth, columns, depth, args.whole_vectors != 0);
    else
      attention::fetch_rows<float, tile, tile>(team, b, matrix + static_cast<Offset>(k) * args.columns + column,
                                               args.columns, depth, columns, args.whole_vectors != 0);
    copies_commit();
    copies_wait<0>();
    team.sync();
    const float* own = a + team.warp * 16 * step;
    if (args.transposed) {
      attention::multiply_rows<tile>(sums, own, b, depth, team.lane);
    } else {
      float x[tile / 8][4];
      take(x, own, false, team.lane);
#pragma unroll
      for (int n = 0; n < tile / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)  // columns that were not copied
          if (n * 8 + team.lane % 4 * 2 + e % 2 >= depth) x[n][e] = 0.0f;
      attention::multiply_weights<tile>(sums, x, b, columns, team.lane);
    }
  }
  attention::store_sums(sums, out + (first + team.warp * 16) * args.columns + column, args.columns,
                        count - team.warp * 16, columns, 1.0f, 1.0f, team.lane);
}

// out[r] = the sum of a[e]^T b[e] over row r's elements. Blocks: (rows, tiles of depth * tiles of columns).
DEVICE_INLINE void sums_of_products(const Product& args, const float* a_rows, const float* b_rows, float* out,
                                    const Offset* valid) {
  DEVICE_SHARED(float, memory);
  if (!valid[0]) return fill_not_a_number(out, args.num_rows * args.depth * args.columns);
  const LongTeam team;
  const Offset row = blockIdx.x;
  const int column_tiles = (args.columns + tile - 1) / tile;
  const int k = static_cast<int>(blockIdx.y) / column_tiles * tile,
            column = static_cast<int>(blockIdx.y) % column_tiles * tile;
  const int depth = attention::smaller(args.depth - k, tile), columns = attention::smaller(args.columns - column, tile);
  float *a = memory, *b = memory + tile * step;
  float sums[tile / 8][4];
  attention::clear(sums);
  for (Offset first = args.offsets[row]; first < args.offsets[row + 1]; first += tile) {
    const Offset left = args.offsets[row + 1] - first;
    const int count = left < tile ? static_cast<int>(left) : tile;
    team.sync();
    attention::fetch_rows<float, tile, tile>(team, a, a_rows + first * args.depth + k, args.depth, count, depth,
                                             args.whole_vectors != 0);
    attention::fetch_rows<float, tile, tile>(team, b, b_rows + first * args.columns + column, args.columns, count,
                                             columns, args.whole_vectors != 0);
    copies_commit();
    copies_wait<0>();
    team.sync();
    if (team.warp * 16 >= depth) continue;
    float x[tile / 8][4];
    take(x, a + team.warp * 16, true, team.lane);
    attention::multiply_weights<tile>(sums, x, b, columns, team.lane);
  }
  if (team.warp * 16 >= depth) return;
  attention::store_sums(sums, out + (row * args.depth + k + team.warp * 16) * args.columns + column, args.columns,
                        depth - team.warp * 16, columns, 1.0f, 1.0f, team.lane);
}

}  // namespace jagged

// Blocks of 128 threads.
extern "C" __global__ void __launch_bounds__(128)
    jagged_product_dense(const long long* offsets, long long num_rows, long long count, int depth, int columns,
                         int transposed, int whole_vectors, const float* values, const float* dense, const float* bias,
                         float* out, const long long* valid) {
  jagged::rows_by_matrix({offsets, num_rows, count, depth, columns, transposed, whole_vectors}, values, dense, bias,
                         out, valid);
}

extern "C" __global__ void __launch_bounds__(128)
    jagged_product_outer(const long long* offsets, long long num_rows, long long count, int depth, int columns,
                         int whole_vectors, const float* a, const float* b, float* out, const long long* valid) {
  jagged::sums_of_products({offsets, num_rows, count, depth, columns, 0, whole_vectors}, a, b, out, valid);
}
