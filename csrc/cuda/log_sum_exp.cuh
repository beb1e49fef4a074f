// log(sum of e^x) as ops/reference/trie_step.py defines it, bit by bit: element i is added to lane i mod 16, in order,
// and the lanes then pair by pair. A block takes a row: its threads make the exponentials, a batch at a time, and the
// first 16 of them add up one batch while the others make the next.
#pragma once
#include "device.cuh"

constexpr int sum_lanes = 16, sum_batch = 8;  // a thread makes sum_batch exponentials of a batch
constexpr float largest_float = 3.402823466e38f;
// A row's highest logit between these needs no shift: 65536 of e^70 are no overflow, and e^-86 is nothing to e^-40.
constexpr float least_plain = -40.0f, most_plain = 70.0f;

// 2^(j / 32) for j in [0, 32) as bits, less j << 18: with n << 18 added, an entry n mod 32 becomes 2^(n / 32).
__constant__ unsigned powers_of_two[32] = {
    0x3f800000u, 0x3f7ecd87u, 0x3f7daac3u, 0x3f7c980fu, 0x3f7b95c2u, 0x3f7aa43au, 0x3f79c3d3u, 0x3f78f4f0u,
    0x3f7837f0u, 0x3f778d3au, 0x3f76f532u, 0x3f767043u, 0x3f75fed7u, 0x3f75a15bu, 0x3f75583fu, 0x3f7523f6u,
    0x3f7504f3u, 0x3f74fbafu, 0x3f7508a4u, 0x3f752c4du, 0x3f75672au, 0x3f75b9beu, 0x3f76248cu, 0x3f76a81eu,
    0x3f7744fdu, 0x3f77fbb8u, 0x3f78ccdfu, 0x3f79b907u, 0x3f7ac0c7u, 0x3f7be4bau, 0x3f7d257du, 0x3f7e83b3u,
};

struct SumScratch {     // shared by a block of at most 256 threads
  unsigned powers[32];  // a bank each: whatever 32 lanes look up, it is one access
  float highest[8];     // of the warps
  int counts[8];        // of the warps
  float total;
};

// e^x for x <= 88, exactly 1 at 0; below -86 what it is there (4e-38).
DEVICE_INLINE float exp_of(float any, const unsigned* powers) {
  const float x = fmaxf(any, -86.0f);
  const float round = 393216.0f;  // leaves n, the nearest whole number of 32nds, in the low bits of the sum
  const float counts = fmaf(x, 1.44269502162933349609375f, round);
  const float r = fmaf(counts - round, -0.693147182464599609375f, x);
  const unsigned n = __float_as_uint(counts);
  const float power = __uint_as_float(powers[n & 31u] + (n << 18));
  return fmaf(power, r * (r * 0.5f + 1.0000146627426147f), power);
}

// Natural logarithm of x >= 1.
DEVICE_INLINE double log_of(double x) {
  const unsigned long long sqrt_half = 0x3fe6a09e667f3bcdull;
  const unsigned long long bits = static_cast<unsigned long long>(__double_as_longlong(x)), above = bits - sqrt_half;
  const double exponent = static_cast<double>(static_cast<long long>(above >> 52));
  const double mantissa = __longlong_as_double(static_cast<long long>(bits - (above & 0xfff0000000000000ull)));
  const double z = (mantissa - 1) / (mantissa + 1), square = z * z, fourth = square * square;
  const double first = 1 + square * (1.0 / 3), second = 1.0 / 5 + square * (1.0 / 7);
  const double third = 1.0 / 9 + square * (1.0 / 11) + fourth * (1.0 / 13);
  return (z * 2) * (first + fourth * (second + fourth * third)) + exponent * 0.6931471805599453;
}

// What a pass over a row finds; the same in all threads of the block.
struct Sum {
  float total, highest;
  bool wrong;  // the row holds a NaN or +inf
};

// The threads' results as the block's. `lane_total` is that of the threads below 16.
DEVICE_INLINE Sum joined(float lane_total, float highest, bool wrong, SumScratch& scratch) {
  const int t = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / 32;
  for (int d = 16; d; d >>= 1) highest = fmaxf(highest, __shfl_xor_sync(all_lanes, highest, d));
  if (t < 32)
    for (int d = sum_lanes / 2; d; d >>= 1) lane_total += __shfl_xor_sync(all_lanes, lane_total, d);
  if (t % 32 == 0) scratch.highest[t / 32] = highest;
  if (t == 0) scratch.total = lane_total;
  const bool any = __syncthreads_or(wrong) != 0;
  for (int w = 0; w < warps; ++w) highest = fmaxf(highest, scratch.highest[w]);
  return {scratch.total, highest, any};
}

// The row's highest number alone.
template <class Element>
DEVICE_INLINE Sum highest_of_row(const typename Element::Type* row, int size, SumScratch& scratch) {
  float highest = negative_infinity();
  bool wrong = false;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) {
    const float x = Element::load(row[i]);
    highest = fmaxf(highest, x);
    wrong = wrong || !(x <= largest_float);
  }
  return joined(0.0f, highest, wrong, scratch);
}

// Sum of e^(x - shift); `batches` holds twice sum_batch numbers a thread.
template <class Element>
DEVICE_INLINE Sum sum_of_row(const typename Element::Type* row, int size, float shift, SumScratch& scratch,
                             float* batches) {
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), batch = sum_batch * threads;
  const int padded = (size + sum_lanes - 1) / sum_lanes * sum_lanes;
  float lane_total = 0.0f, highest = negative_infinity();
  bool wrong = false;
  float* made = batches;
  for (int first = 0; first < padded; first += batch) {
    float x[sum_batch];
#pragma unroll
    for (int e = 0; e < sum_batch; ++e) {
      const int i = first + e * threads + t;
      x[e] = i < size ? Element::load(row[i]) : negative_infinity();
    }
#pragma unroll
    for (int e = 0; e < sum_batch; ++e) {
      highest = fmaxf(highest, x[e]);
      wrong = wrong || !(x[e] <= largest_float);
      made[e * threads + t] = exp_of(x[e] - shift, scratch.powers);
    }
    __syncthreads();
    // The other half of the memory is free: whoever added it up was at this barrier.
    if (t < sum_lanes) {
      const int count = padded - first < batch ? padded - first : batch;
#pragma unroll 8
      for (int i = t; i < count; i += sum_lanes) lane_total += made[i];
    }
    made = made == batches ? batches + batch : batches;
  }
  return joined(lane_total, highest, wrong, scratch);
}

// As `sum_of_row` for those of `size` numbers that `find(i, x)` says are there, without gaps. Every thread calls it.
template <class Find>
DEVICE_INLINE Sum sum_of_some(int size, float shift, SumScratch& scratch, float* made, const Find& find) {
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  float lane_total = 0.0f, highest = negative_infinity();
  int waiting = 0;  // made, and fewer than 16: they begin the next round
  for (int first = 0; first < size; first += threads) {
    float x = 0.0f;
    const bool there = first + t < size && find(first + t, x);
    const unsigned votes = __ballot_sync(all_lanes, there);
    if (t % 32 == 0) scratch.counts[t / 32] = __popc(votes);
    __syncthreads();
    int place = waiting + __popc(votes & ((1u << t % 32) - 1u)), count = waiting;
    for (int w = 0; w < threads / 32; ++w) {
      place += w < t / 32 ? scratch.counts[w] : 0;
      count += scratch.counts[w];
    }
    if (there) {
      highest = fmaxf(highest, x);
      made[place] = exp_of(x - shift, scratch.powers);
    }
    __syncthreads();
    const int whole = count / sum_lanes * sum_lanes;
    if (t < sum_lanes)
      for (int i = t; i < whole; i += sum_lanes) lane_total += made[i];
    waiting = count - whole;
    const float left = t < waiting ? made[whole + t] : 0.0f;
    __syncthreads();
    if (t < waiting) made[t] = left;
  }
  __syncthreads();
  if (t < sum_lanes && waiting > 0) lane_total += t < waiting ? made[t] : exp_of(negative_infinity(), scratch.powers);
  return joined(lane_total, highest, false, scratch);
}

// Whether the sum must be taken again, less the highest.
DEVICE_INLINE bool needs_shift(const Sum& sum) {
  return !sum.wrong && sum.highest >= -largest_float && !(sum.highest >= least_plain && sum.highest <= most_plain);
}

// Not log(total) + shift: a row of one code has its logit to the bit, and none a sum below its highest. One thread's
// work (few cards have many units for doubles); every thread of the block calls it.
DEVICE_INLINE float log_of_sum(const Sum& sum, float shift, SumScratch& scratch) {
  __syncthreads();
  if (threadIdx.x == 0) {
    const float own = exp_of(sum.highest - shift, scratch.powers);
    scratch.total = sum.highest + static_cast<float>(log_of(static_cast<double>(sum.total) / static_cast<double>(own)));
  }
  __syncthreads();
  return scratch.total;
}
