// How warps work on tiles: rows from memory to shared memory, and the two products of attention. A warp owns 16 rows of
// a product; its lane holds, as mma.sync leaves them, rows lane / 4 and lane / 4 + 8 and columns 8 n + 2 (lane % 4) and
// the next one. 16-bit floats go through tensor cores, float32 through plain multiply-adds with the same places.
#pragma once
#include "attention_plan.cuh"
#include "mma.cuh"

namespace attention {

constexpr int warps_of_block = 4;

// So many warps share tiles: a whole block for long rows, one warp for short ones.
template <int Warps>
struct Team {
  static constexpr int warps = Warps, rows = 16 * Warps, threads = 32 * Warps, per_block = warps_of_block / Warps;
  int index, warp, lane, thread;  // of the team in its block; in the team; in the warp; in the team

  DEVICE_INLINE Team() {
    const int t = static_cast<int>(threadIdx.x);
    index = t / threads;
    thread = t % threads;
    warp = thread / 32;
    lane = t % 32;
  }
  DEVICE_INLINE void sync() const {
    if (Warps == 1)
      __syncwarp();
    else
      __syncthreads();
  }
};

template <class Element>
struct Kind;
template <>
struct Kind<float> {
  static constexpr int vector = 4;  // elements of 16 bytes
  static DEVICE_INLINE float zero() { return 0.0f; }
  static DEVICE_INLINE float widen(float x) { return x; }
  static DEVICE_INLINE float narrow(float x) { return x; }
};
template <>
struct Kind<unsigned short> {
  static constexpr int vector = 8;
  static DEVICE_INLINE unsigned short zero() { return 0; }
  static DEVICE_INLINE float widen(unsigned short x) { return bfloat16_to_float(x); }
  static DEVICE_INLINE unsigned short narrow(float x) { return float_to_bfloat16(x); }
};

// Elements between two rows in shared memory: 16 bytes more than a row, so that 8 rows lie in different banks.
template <class Element, int Slab>
constexpr int row_step = Slab + Kind<Element>::vector;

// Begins to copy rows [0, count) of `from`, `columns` of each, to shared memory as [Rows][row_step]; rows and columns
// (up to a multiple of 16) that are not there become 0. Whole after copies_done() and a sync.
template <class Element, int Slab, int Rows, class Team>
DEVICE_INLINE void fetch_rows(const Team& team, Element* to, const Element* from, Offset stride, int count, int columns,
                              bool whole_vectors) {
  constexpr int step = row_step<Element, Slab>, vector = Kind<Element>::vector;
  const int padded = (columns + 15) / 16 * 16;
  if (whole_vectors) {
    constexpr int vectors = Slab / vector;
    for (int i = team.thread; i < Rows * vectors; i += Team::threads) {
      const int row = i / vectors, column = i % vectors * vector;
      Element* place = to + row * step + column;
      if (row < count && column < columns)
        cp_async16(place, from + row * stride + column);
      else if (column < padded)
        for (int e = 0; e < vector; ++e) place[e] = Kind<Element>::zero();
    }
  } else {
    for (int i = team.thread; i < Rows * Slab; i += Team::threads) {
      const int row = i / Slab, column = i % Slab;
      if (column >= padded) continue;
      to[row * step + column] = row < count && column < columns ? from[row * stride + column] : Kind<Element>::zero();
    }
  }
}

// How tensor cores read words of 16 bits, and what two floats are as such a word.
template <class Element>
struct Cores;
template <>
struct Cores<Bfloat16> {
  static DEVICE_INLINE void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_bfloat16(c, a, b);
  }
  static DEVICE_INLINE unsigned pack(float low, float high) { return pack_bfloat16(low, high); }
};
template <>
struct Cores<Half> {
  static DEVICE_INLINE void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_half(c, a, b);
  }
  static DEVICE_INLINE unsigned pack(float low, float high) { return pack_half(low, high); }
};

// sums[n] += 16 rows of a times rows of b, over `columns` of both: sums of [16][8 N].
template <int Slab, class Kept = Bfloat16, int N>
DEVICE_INLINE void multiply_rows(float (&sums)[N][4], const unsigned short* a, const unsigned short* b, int columns,
                                 int lane) {
  constexpr int step = row_step<unsigned short, Slab>;
  const unsigned short* a_place = a + lane % 16 * step + lane / 16 * 8;
  const unsigned short* b_place = b + (lane / 16 * 8 + lane % 8) * step + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < Slab; k += 16) {
    if (k >= columns) break;
    unsigned x[4];
    ldmatrix_x4(x, a_place + k);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned y[4];
      ldmatrix_x4(y, b_place + n * 8 * step + k);
      const unsigned first[2] = {y[0], y[1]}, second[2] = {y[2], y[3]};
      Cores<Kept>::multiply(sums[n], x, first);
      Cores<Kept>::multiply(sums[n + 1], x, second);
    }
  }
}

DEVICE_INLINE float dot(const float4& x, const float4& y, float sum) {
  sum = fmaf(x.x, y.x, sum);
  sum = fmaf(x.y, y.y, sum);
  sum = fmaf(x.z, y.z, sum);
  return fmaf(x.w, y.w, sum);
}

template <int Slab, class Kept = Float32, int N>
DEVICE_INLINE void multiply_rows(float (&sums)[N][4], const float* a, const float* b, int columns, int lane) {
  constexpr int step = row_step<float, Slab>;
  const float* a_place = a + lane / 4 * step;
  const float* b_place = b + lane % 4 * 2 * step;
  for (int k = 0; k < columns; k += 4) {
    const float4 x = *reinterpret_cast<const float4*>(a_place + k);
    const float4 z = *reinterpret_cast<const float4*>(a_place + 8 * step + k);
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float4 y = *reinterpret_cast<const float4*>(b_place + (n * 8 + e) * step + k);
        sums[n][e] = dot(x, y, sums[n][e]);
        sums[n][e + 2] = dot(z, y, sums[n][e + 2]);
      }
  }
}

// sums += weights times the rows of b: weights [16][8 K] in the lanes' places, b [8 K][columns].
template <int Slab, class Kept = Bfloat16, int N, int K>
DEVICE_INLINE void multiply_weights(float (&sums)[N][4], const float (&weights)[K][4], const unsigned short* b,
                                    int columns, int lane) {
  constexpr int step = row_step<unsigned short, Slab>;
  const unsigned short* b_place = b + lane % 16 * step + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < K; k += 2) {
    const unsigned x[4] = {Cores<Kept>::pack(weights[k][0], weights[k][1]),
                           Cores<Kept>::pack(weights[k][2], weights[k][3]),
                           Cores<Kept>::pack(weights[k + 1][0], weights[k + 1][1]),
                           Cores<Kept>::pack(weights[k + 1][2], weights[k + 1][3])};
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      if (n * 8 >= columns) break;
      unsigned y[4];
      ldmatrix_x4_trans(y, b_place + k * 8 * step + n * 8);
      const unsigned first[2] = {y[0], y[1]}, second[2] = {y[2], y[3]};
      Cores<Kept>::multiply(sums[n], x, first);
      Cores<Kept>::multiply(sums[n + 1], x, second);
    }
  }
}

template <int Slab, class Kept = Float32, int N, int K>
DEVICE_INLINE void multiply_weights(float (&sums)[N][4], const float (&weights)[K][4], const float* b, int columns,
                                    int lane) {
  constexpr int step = row_step<float, Slab>;
  const float* b_place = b + lane % 4 * 2;
#pragma unroll
  for (int k = 0; k < K; ++k)
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int owner = (lane & ~3) + e / 2;
      const float x = __shfl_sync(all_lanes, weights[k][e % 2], owner);
      const float z = __shfl_sync(all_lanes, weights[k][e % 2 + 2], owner);
      const float* row = b_place + (k * 8 + e) * step;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        if (n * 8 >= columns) break;
        const float2 y = *reinterpret_cast<const float2*>(row + n * 8);
        sums[n][0] = fmaf(x, y.x, sums[n][0]);
        sums[n][1] = fmaf(x, y.y, sums[n][1]);
        sums[n][2] = fmaf(z, y.x, sums[n][2]);
        sums[n][3] = fmaf(z, y.y, sums[n][3]);
      }
    }
}

template <int N>
DEVICE_INLINE void clear(float (&sums)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] = 0.0f;
}

template <int N>
DEVICE_INLINE void scale_sums(float (&sums)[N][4], const float (&factors)[2]) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] *= factors[e / 2];
}

// Rows [0, count) and `columns` of sums, times a factor per half of the lane's rows, to memory.
template <int N, class Element>
DEVICE_INLINE void store_sums(const float (&sums)[N][4], Element* to, Offset stride, int count, int columns,
                              float first_factor, float second_factor, int lane) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + (e < 2 ? 0 : 8), column = n * 8 + lane % 4 * 2 + e % 2;
      if (row < count && column < columns)
        to[row * stride + column] = Kind<Element>::narrow(sums[n][e] * (e < 2 ? first_factor : second_factor));
    }
}

// NaN for `columns` of `count` rows.
template <class Element, class Team>
DEVICE_INLINE void poison(const Team& team, Element* to, Offset stride, int count, int columns) {
  for (int i = team.thread; i < count * columns; i += Team::threads)
    to[i / columns * stride + i % columns] = Kind<Element>::narrow(not_a_number());
}

// Sum or greatest over the four lanes that share rows.
DEVICE_INLINE float sum_of_row(float x) {
  x += __shfl_xor_sync(all_lanes, x, 1);
  return x + __shfl_xor_sync(all_lanes, x, 2);
}
DEVICE_INLINE float greatest_of_row(float x) {
  x = fmaxf(x, __shfl_xor_sync(all_lanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(all_lanes, x, 2));
}

// Softmax over the keys so far, for the two queries whose pairs a lane holds.
struct RunningSoftmax {
  float highest[2] = {negative_infinity(), negative_infinity()}, total[2] = {0.0f, 0.0f};

  // Scores, -inf of a key that is not seen, -> weights; `rescale` is what sums of earlier weights are to be multiplied
  // by. Totals are those of the lane's own pairs: sum_of_row makes them whole.
  template <int N>
  DEVICE_INLINE void weigh(float (&x)[N][4], float (&rescale)[2]) {
    float most[2] = {highest[0], highest[1]}, above[2];
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) most[e / 2] = fmaxf(most[e / 2], x[n][e]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      most[r] = greatest_of_row(most[r]);
      above[r] = most[r] == negative_infinity() ? 0.0f : most[r];  // nothing seen so far
      rescale[r] = __expf(highest[r] - above[r]);
      highest[r] = most[r];
      total[r] *= rescale[r];
    }
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        x[n][e] = __expf(x[n][e] - above[e / 2]);
        total[e / 2] += x[n][e];
      }
  }
};

// sigmoid(x); with tensor cores as well as bfloat16 can tell.
template <class Element>
DEVICE_INLINE float sigmoid(float x) {
  if (sizeof(Element) == 2) return fmaf(0.5f, rough_tanh(0.5f * x), 0.5f);
  return __fdividef(1.0f, 1.0f + __expf(-x));
}

}  // namespace attention
