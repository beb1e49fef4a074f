// What the ops over items written as codes read, and an item's score: its codes' scores, added level by level from 0
// on in float32, as ops/reference/topk_code_sums.py defines it.
#pragma once
#include "best_keys.cuh"

constexpr float largest_score = 3.402823466e38f;
constexpr int bases_at_once = 512;

struct CodeSums {          // python/genrec_fast/ops/_cuda_code_sums.py writes the same
  const float* logprobs;   // [users, width]
  const void* item_codes;  // [num_items, num_levels]
  const int* bases;        // [num_levels + 1]: the scores of level l are [bases[l], bases[l + 1])
  long long users, width, num_items;
  int num_levels;
  int wide;  // whether the codes of 16 levels are read at once
};

struct Bases {
  int at[bases_at_once];
};

DEVICE_INLINE bool is_score(float x) { return x <= largest_score; }  // finite or -infinity

// Calls take(level, code) for every level of the item; codes are bytes or int.
template <class Code, class Take>
DEVICE_INLINE void each_code(const CodeSums& sums, long long item, const Take& take) {
  const Code* const row = static_cast<const Code*>(sums.item_codes) + item * sums.num_levels;
  if constexpr (sizeof(Code) == 1) {
    for (int level = 0; sums.wide && level < sums.num_levels; level += 16) {
      const float4 some = *reinterpret_cast<const float4*>(row + level);
      const unsigned words[4] = {__float_as_uint(some.x), __float_as_uint(some.y), __float_as_uint(some.z),
                                 __float_as_uint(some.w)};
#pragma unroll
      for (int i = 0; i < 16; ++i) take(level + i, static_cast<int>(words[i / 4] >> (8 * (i % 4)) & 0xffu));
    }
    if (sums.wide) return;
  }
#pragma unroll 4
  for (int level = 0; level < sums.num_levels; ++level) take(level, static_cast<int>(row[level]));
}

// Adds up an item's scores for as many users as there are totals; at(place, user) is a score of the table. False where
// a code lies outside its level.
template <class Code, int Users, class At>
DEVICE_INLINE bool sum_codes(const CodeSums& sums, long long item, float (&totals)[Users], const At& at) {
  bool right = true;
#pragma unroll
  for (float& total : totals) total = 0.0f;
  each_code<Code>(sums, item, [&](int level, int code) {
    const int base = __ldg(sums.bases + level), size = __ldg(sums.bases + level + 1) - base;
    const bool inside = code >= 0 && code < size;
    right = right && inside;
    const long long place = base + (inside ? code : 0);
#pragma unroll
    for (int u = 0; u < Users; ++u) totals[u] += at(place, u);
  });
  return right;
}

// 0 where the item is not found: -infinity, or NaN of a sum that left float32.
DEVICE_INLINE Key key_of_sum(float total, long long item) {
  return total >= negative_infinity() && total != negative_infinity() ? key_of(total, item) : 0;
}

// Whether the users' scores are all finite or -infinity; every thread of the block calls it.
DEVICE_INLINE bool are_scores(const CodeSums& sums, long long user) {
  bool wrong = false;
  for (long long at = threadIdx.x; at < sums.width; at += blockDim.x)
    wrong = wrong || !is_score(sums.logprobs[user * sums.width + at]);
  return __syncthreads_or(wrong) == 0;
}
