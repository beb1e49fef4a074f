// What the searches for nearest codes share: a block's 128 rows, less the codes found so far, times a level's codes on
// tensor cores in bfloat16, with bounds on how far its scores are off; and scores as defined, in float64.
//
// Residuals are not kept: x less one code after the other, in float32, is made again wherever it is read.
// A warp owns 32 rows; its lane holds of every product what mma.sync leaves there (mma.cuh).
#pragma once
#include "mma.cuh"

namespace rq {

using Offset = long long;
constexpr int most_levels = 256, block_threads = 128, block_rows = 128, warp_rows = 32, tile_codes = 128;
constexpr int slab = 64, slab_step = slab + 8;  // columns of a product's step; elements between two rows of it
constexpr int most_resident = 128;              // columns: up to here a block's rows stay in shared memory as a whole
constexpr int group = 4;                        // elements that a lane reads at once

struct Bounds {  // of one level's codes, not below; `wrong`: a code is not finite
  float norm, spread, rounding;
  unsigned wrong;
};

struct Levels {                   // python/genrec_fast/ops/_rq_levels.py writes the same
  const float* books;             // the codes of all levels [codes, depth]
  const unsigned short* rounded;  // the same less their level's centre, as bfloat16 [codes, padded]
  const float* starts;            // |c - centre|^2 / 2; infinity where a code equals a lower one
  const double* half_norms;       // |c|^2 / 2 as defined
  const float* centres;           // [num_levels, depth]
  const Bounds* bounds;           // [num_levels]
  Offset first[most_levels + 1];  // each level's first code
  int num_levels, depth, padded;  // padded: the depth made a multiple of 16

  DEVICE_INLINE int count(int level) const { return static_cast<int>(first[level + 1] - first[level]); }
  DEVICE_INLINE const float* code(int level, Offset k) const { return books + (first[level] + k) * depth; }
  DEVICE_INLINE const unsigned short* products(int level) const { return rounded + first[level] * padded; }
  DEVICE_INLINE const float* centre(int level) const { return centres + static_cast<Offset>(level) * depth; }
};

DEVICE_INLINE float infinity() { return __uint_as_float(0x7f800000u); }
DEVICE_INLINE bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
DEVICE_INLINE Offset smaller(Offset a, Offset b) { return a < b ? a : b; }

DEVICE_INLINE float sum_of_warp(float x) {
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(all_lanes, x, step);
  return x;
}
// Lane j and lane j + 8, + 4, + 2, + 1 of every 16: the sum is right in the first of them, and given to all.
DEVICE_INLINE double sum_of_lanes(double x) {
  for (int step = 8; step; step /= 2) x += __shfl_down_sync(all_lanes, x, static_cast<unsigned>(step), 16);
  return __shfl_sync(all_lanes, x, 0, 16);
}

// row c as defined: products of float32 are exact in float64, and summed in 16 lanes. Half a warp works on a c; where
// that is null, on the row itself. row.take<Stride>(r, from, part) reads its elements d = from + part + Stride i; 0
// behind the last.
template <class Row>
DEVICE_INLINE double defined_dot(const Row& row, int depth, const float* c) {
  const int part = static_cast<int>(threadIdx.x) % 16;
  double sum = 0.0;
  for (int from = 0; from < depth; from += 16 * group) {
    float r[group];
    row.template take<16>(r, from, part);
#pragma unroll
    for (int i = 0; i < group; ++i) {
      const int d = from + part + 16 * i;
      if (d < depth) sum += static_cast<double>(r[i]) * static_cast<double>(c ? __ldg(c + d) : r[i]);
    }
  }
  return sum_of_lanes(sum);
}

// One row of x and the codes that were found for it at the levels before this one.
template <class Element>
struct Residual {
  const Levels& levels;
  const typename Element::Type* x;
  const int* codes;
  int level;

  template <int Stride>
  DEVICE_INLINE void take(float (&r)[group], int from, int part) const {
#pragma unroll
    for (int i = 0; i < group; ++i) {
      const int d = from + part + Stride * i;
      r[i] = d < levels.depth ? Element::load(x[d]) : 0.0f;
    }
    for (int l = 0; l < level; ++l) {
      const float* code = levels.code(l, codes[l]);
#pragma unroll
      for (int i = 0; i < group; ++i) {
        const int d = from + part + Stride * i;
        if (d < levels.depth) r[i] -= __ldg(code + d);
      }
    }
  }
  DEVICE_INLINE double dot(const float* code) const { return defined_dot(*this, levels.depth, code); }
  // |c|^2 / 2 - r c as defined.
  DEVICE_INLINE double score(int k) const {
    const double product = dot(levels.code(level, k));
    return levels.half_norms[levels.first[level] + k] - product;
  }
};

// Not below the length of float32 numbers whose squares sum to `squares` in float32, in any order: the first term
// bounds the rounding of the sum, the second the squares that underflowed.
DEVICE_INLINE float length_above(float squares, int depth) {
  const float count = static_cast<float>(depth);
  return sqrtf(squares) * (1.0f + 1e-3f + 2e-7f * count) + 1.1e-19f * sqrtf(count);
}

// Lengths of a residual r, of r' = r less the level's centre, and of what rounding took from r', none below.
struct Lengths {
  float norm, spread, lost;
};
DEVICE_INLINE bool is_regular(const Lengths& row, const Bounds& codes) {  // else a product could leave float32
  return row.norm < 1e18f && codes.norm < 1e18f;
}

constexpr float unit = 1.0f / 16777216.0f;  // 2^-24: what rounding to float32 takes, relatively, at most

// Subnormal numbers may be lost.
DEVICE_INLINE float tiny_error(const Lengths& row, const Bounds& codes, int depth) {
  return 2.4e-38f * static_cast<float>(depth) * (1.0f + row.spread + codes.spread);
}
// How far a score from float32 products r' c' may be off.
DEVICE_INLINE float fine_error(const Lengths& row, const Bounds& codes, int depth) {
  return static_cast<float>(depth + 16) * unit * (row.spread * codes.spread + codes.spread * codes.spread) +
         tiny_error(row, codes, depth);
}
// How far a score from tensor cores may be off. They align a product's 16 terms and the sum so far to the largest and
// cut off what lies below float32's last bit of it: no more than 20 / 16 * 2^-23 of all terms per element, so 2^-22 is
// safe (Fasi, Higham, Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021). The rounding of r' and c'
// to bfloat16 is measured, not estimated.
DEVICE_INLINE float coarse_error(const Lengths& row, const Bounds& codes, int depth) {
  const float rounded = codes.spread + codes.rounding;
  return static_cast<float>(depth + 16) * (4.0f * unit) * (row.spread + row.lost) * rounded + row.lost * rounded +
         row.spread * codes.rounding + 8.0f * unit * (row.spread * codes.spread + codes.spread * codes.spread) +
         tiny_error(row, codes, depth);
}
// How far a score as defined is off: float64 rounds, too.
DEVICE_INLINE float defined_error(float row, float code, int depth) {
  return static_cast<float>(depth + 16) * (unit * unit / 32.0f) * (row * code + code * code);
}

// A block's shared memory, as far as products need it.
struct Tiles {
  unsigned short* rows;    // [block_rows, padded + 8], or two slabs [block_rows, slab_step]
  unsigned short* codes;   // two slabs [tile_codes, slab_step]
  unsigned short* staged;  // the rows in memory [block_rows, padded], or null where shared memory holds them
  char* rest;

  // in_memory: [blocks, block_rows, padded], or null
  DEVICE_INLINE Tiles(char* memory, int padded, unsigned short* in_memory) {
    const bool resident = padded <= most_resident;
    staged = resident ? nullptr : in_memory + static_cast<Offset>(blockIdx.x) * block_rows * padded;
    rows = reinterpret_cast<unsigned short*>(memory);
    codes = rows + block_rows * (resident ? padded + 8 : 2 * slab_step);
    rest = reinterpret_cast<char*>(codes + 2 * tile_codes * slab_step);
  }
};

// The warp's rows of a block, less a centre (null: nothing), as bfloat16 where products read them. `rows` says whether
// a slot has a row (`is_there`) and which (`residual`); `note` gets its lengths, half of its squares' sum, and whether
// it is finite.
template <class Rows, class Note>
DEVICE_INLINE void prepare(const Tiles& tiles, int depth, int padded, const float* centre, const Rows& rows,
                           const Note& note) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = 0; i < warp_rows; ++i) {
    const int slot = warp * warp_rows + i;
    const bool is_there = rows.is_there(slot);
    unsigned short* to =
        tiles.staged ? tiles.staged + static_cast<Offset>(slot) * padded : tiles.rows + slot * (padded + 8);
    float squares = 0.0f, apart = 0.0f, lost = 0.0f;
    bool wrong = false;
    for (int from = 0; from < padded; from += 32 * group) {
      float r[group] = {};
      if (is_there) rows.residual(slot).template take<32>(r, from, lane);
#pragma unroll
      for (int e = 0; e < group; ++e) {
        const int d = from + lane + 32 * e;
        if (d >= padded) continue;
        const float shifted = is_there && d < depth ? r[e] - (centre ? __ldg(centre + d) : 0.0f) : 0.0f;
        const auto near = static_cast<unsigned short>(pack_bfloat16(shifted, 0.0f));
        const float taken = shifted - bfloat16_to_float(near);
        to[d] = near;
        squares = fmaf(r[e], r[e], squares);
        apart = fmaf(shifted, shifted, apart);
        lost = fmaf(taken, taken, lost);
        wrong = wrong || !is_finite(r[e]);
      }
    }
    if (!is_there) continue;
    wrong = __ballot_sync(all_lanes, wrong) != 0u;
    squares = sum_of_warp(squares);
    apart = sum_of_warp(apart);
    lost = sum_of_warp(lost);
    if (lane == 0)
      note(slot, Lengths{length_above(squares, depth), length_above(apart, depth), length_above(lost, depth)},
           0.5f * apart, !wrong);
  }
}

// Begins to copy one slab of rows of `from` to shared memory; rows from `count` on are copies of the last.
DEVICE_INLINE void fetch(unsigned short* to, const unsigned short* from, int padded, int column, int rows, int count) {
  constexpr int vectors = slab / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * vectors; i += block_threads) {
    const int row = i / vectors, d = i % vectors * 8;
    if (column + d < padded)
      cp_async16(to + row * slab_step + d,
                 from + static_cast<Offset>(row < count ? row : count - 1) * padded + column + d);
  }
}

using Sums = float[warp_rows / 16][tile_codes / 8][4];

// The block's rows times `count` codes [count, padded], a tile of codes at a time: ending(first code, codes, sums) per
// tile.
template <class Ending>
DEVICE_INLINE void multiply(const Tiles& tiles, int padded, const unsigned short* codes, int count,
                            const Ending& ending) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int slabs = (padded + slab - 1) / slab, steps = slabs * ((count + tile_codes - 1) / tile_codes);
  const auto begin = [&](int step) {
    const int first = step / slabs * tile_codes, column = step % slabs * slab, left = count - first;
    const int rows = left < tile_codes ? (left + 15) / 16 * 16 : tile_codes;
    fetch(tiles.codes + step % 2 * tile_codes * slab_step, codes + static_cast<Offset>(first) * padded, padded, column,
          rows, left);
    if (tiles.staged)
      fetch(tiles.rows + step % 2 * block_rows * slab_step, tiles.staged, padded, column, block_rows, block_rows);
    copies_commit();
  };
  Sums sums;
  __syncthreads();  // the rows are there
  begin(0);
  for (int step = 0; step < steps; ++step) {
    const int part = step % slabs, first = step / slabs * tile_codes;
    const int columns = padded - part * slab < slab ? padded - part * slab : slab;
    const int here = count - first < tile_codes ? count - first : tile_codes;
    if (step + 1 < steps) {
      begin(step + 1);
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    __syncthreads();
    if (part == 0)
#pragma unroll
      for (int m = 0; m < warp_rows / 16; ++m)
#pragma unroll
        for (int n = 0; n < tile_codes / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) sums[m][n][e] = 0.0f;
    const int a_step = tiles.staged ? slab_step : padded + 8;
    const unsigned short* a = tiles.rows + (tiles.staged ? step % 2 * block_rows * slab_step : part * slab) +
                              (warp * warp_rows + lane % 16) * a_step + lane / 16 * 8;
    const unsigned short* b =
        tiles.codes + step % 2 * tile_codes * slab_step + (lane / 16 * 8 + lane % 8) * slab_step + lane / 8 % 2 * 8;
    for (int k = 0; k < columns; k += 16) {
      unsigned x[warp_rows / 16][4];
#pragma unroll
      for (int m = 0; m < warp_rows / 16; ++m) ldmatrix_x4(x[m], a + m * 16 * a_step + k);
#pragma unroll
      for (int n = 0; n < tile_codes / 8; n += 2) {
        if (n * 8 >= here) break;
        unsigned y[4];
        ldmatrix_x4(y, b + n * 8 * slab_step + k);
        const unsigned left[2] = {y[0], y[1]}, right[2] = {y[2], y[3]};
#pragma unroll
        for (int m = 0; m < warp_rows / 16; ++m) {
          mma_bfloat16(sums[m][n], x[m], left);
          mma_bfloat16(sums[m][n + 1], x[m], right);
        }
      }
    }
    if (part + 1 == slabs) ending(first, here, sums);
    __syncthreads();  // before the slabs are overwritten
  }
}

// The place of a lane's element of a product: which of the block's rows, and which of the tile's codes.
DEVICE_INLINE int row_of(int m, int half) {
  return static_cast<int>(threadIdx.x) / 32 * warp_rows + m * 16 + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
}
DEVICE_INLINE int code_of(int n, int e) { return n * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + e; }

}  // namespace rq
