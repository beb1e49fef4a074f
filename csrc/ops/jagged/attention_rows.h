// Between the products of attention: packing rows as panels, and turning a line of scores into weights. Included by
// per-ISA files alone.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "core/math.h"
#include "ops/jagged/attention_seen.h"

namespace genrec::GENREC_ISA {

constexpr float negative_infinity = -HUGE_VALF;

// An ending that keeps the sums: out[row * stride + column].
struct Keep {
  float* out;
  std::int64_t stride;

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) sums[r][v] = fill(0.0f);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) store(out + (row + r) * stride + column + v * lanes, sums[r][v]);
  }
};

// The number of a query and head, to which dropout adds the key's.
static inline std::uint32_t dropout_row(std::uint64_t seed, std::int64_t query, std::int64_t head) {
  const std::uint32_t row = mix(static_cast<std::uint32_t>(query) ^ mix(static_cast<std::uint32_t>(head)));
  return mix(mix(row ^ static_cast<std::uint32_t>(seed >> 32)) ^ static_cast<std::uint32_t>(seed));
}

// table[index[i]], indices below `entries`; the table is padded to 32 floats.
static GENREC_INLINE Vec look_up(const float* table, const std::uint16_t* index, std::int64_t entries) {
#if GENREC_VEC == 2
  // A gather costs a Zen 4 core 50 cycles; two registers hold 32 entries, which one instruction looks up.
  if (entries <= 128) {
    const __m512i at = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)));
    const auto part = [&](int first) {
      return _mm512_permutex2var_ps(_mm512_loadu_ps(table + first), at, _mm512_loadu_ps(table + first + lanes));
    };
    __m512 found = part(0);
    if (entries > 32) found = _mm512_mask_mov_ps(found, _mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), part(32));
    if (entries > 64) {
      __m512 high = part(64);
      if (entries > 96) high = _mm512_mask_mov_ps(high, _mm512_test_epi32_mask(at, _mm512_set1_epi32(32)), part(96));
      found = _mm512_mask_mov_ps(found, _mm512_test_epi32_mask(at, _mm512_set1_epi32(64)), high);
    }
    return {found};
  }
#endif
  return gather(table, index, static_cast<std::uint32_t>(entries - 1));
}

// What a query adds to its scores, and drops from its weights, along one line of keys.
struct LineBias {
  const float* distance;                       // at column 0, or null
  const float* time;                           // the head's table, or null
  const std::uint16_t* buckets;                // at column 0
  std::int64_t num_buckets;                    // none is beyond
  std::uint32_t number, first_key, threshold;  // of dropout; threshold 0: none

  LineBias(const AttentionPlan& plan, std::int64_t head, std::int64_t query, std::int64_t position,
           std::int64_t first_query, std::int64_t first_key_row, std::int64_t begin, const std::uint16_t* line,
           std::int64_t buckets_met) {
    const AttentionArgs& args = plan.args;
    distance = args.distance ? plan.distance + head * plan.distance_step + begin - position : nullptr;
    time = args.time ? plan.time + head * plan.time_step : nullptr;
    buckets = line;
    num_buckets = buckets_met;
    threshold = plan.threshold;
    number = threshold ? dropout_row(args.seed, first_query + query, head) : 0u;
    first_key = static_cast<std::uint32_t>(first_key_row + begin);
  }

  GENREC_INLINE Vec score(const float* line, std::int64_t column, Vec alpha) const {
    Vec x = load(line + column) * alpha;
    if (distance) x = x + load(distance + column);
    if (time) x = x + look_up(time, buckets + column, num_buckets);
    return x;
  }
  GENREC_INLINE Vec drop(Vec weight, std::int64_t column) const {
    if (threshold == 0) return weight;
    return choose(mixed_at_least(number, first_key + static_cast<std::uint32_t>(column), threshold), weight,
                  fill(0.0f));
  }
};

// Goes through the vectors of columns [from, until), both multiples of 16: body.all(column) where a query sees every
// lane, body.some(column, mask) where some, body.none(column) elsewhere.
template <class Body>
static GENREC_INLINE void each_vector(const AttentionSeen& seen, std::int64_t begin, std::int64_t from,
                                      std::int64_t until, Body&& body) {
  const std::int64_t first = seen.first - begin, last = seen.last - begin;
  std::int64_t whole = (first + lanes - 1) / lanes * lanes, end = last / lanes * lanes;
  whole = whole < from ? from : whole;
  end = end > until ? until : end;
  if (whole >= end) whole = end = until;
  const auto parts = [&](std::int64_t c, std::int64_t stop) {
    for (; c < stop; c += lanes) {
      const Mask mask = between(first - c, last - c) | between(seen.second - begin - c, seen.end - begin - c);
      if (mask)
        body.some(c, mask);
      else
        body.none(c);
    }
  };
  parts(from, whole);
  for (std::int64_t c = whole; c < end; c += lanes) body.all(c);
  parts(end, until);
}

// Weights are written in the type that the values are multiplied in, and known as well as it can tell.
static GENREC_INLINE void put(float* to, const Vec& x) { store(to, x); }
template <class Element>
static GENREC_INLINE Vec weight_exp(const Vec& x) {
  return exp_of(x);
}
template <class Element>
static GENREC_INLINE Vec weight_sigmoid(const Vec& x) {
  return sigmoid(x);
}
#if GENREC_BF16
static GENREC_INLINE void put(std::uint16_t* to, const Vec& x) { store_bfloat16(to, x); }
template <>
GENREC_INLINE Vec weight_exp<std::uint16_t>(const Vec& x) {
  return rough_exp_of(x);
}
template <>
GENREC_INLINE Vec weight_sigmoid<std::uint16_t>(const Vec& x) {
  return rough_sigmoid(x);
}
#endif

template <class Element>
struct SiluLine {
  const float* line;
  Element* to;
  Vec alpha;
  const LineBias& bias;

  GENREC_INLINE Vec weight(std::int64_t c) const {
    const Vec x = bias.score(line, c, alpha);
    return bias.drop(x * weight_sigmoid<Element>(x), c);
  }
  GENREC_INLINE void all(std::int64_t c) const { put(to + c, weight(c)); }
  GENREC_INLINE void some(std::int64_t c, Mask mask) const { put(to + c, choose(mask, weight(c), fill(0.0f))); }
  GENREC_INLINE void none(std::int64_t c) const { put(to + c, fill(0.0f)); }
};

// Products of a line -> silu's weights but for their scale, at `to`; 0 where nothing is seen. Columns [from, until),
// multiples of 16.
template <class Element>
static inline void silu_line(const float* line, Element* to, std::int64_t from, std::int64_t until, std::int64_t begin,
                             const AttentionSeen& seen, float alpha, const LineBias& bias) {
  each_vector(seen, begin, from, until, SiluLine<Element>{line, to, fill(alpha), bias});
}

struct ScoreLine {
  float* line;
  Vec alpha;
  const LineBias& bias;
  Vec& best;

  GENREC_INLINE void keep(std::int64_t c, const Vec& x) const {
    store(line + c, x);
    best = greater(best, x);
  }
  GENREC_INLINE void all(std::int64_t c) const { keep(c, bias.score(line, c, alpha)); }
  GENREC_INLINE void some(std::int64_t c, Mask mask) const {
    keep(c, choose(mask, bias.score(line, c, alpha), fill(negative_infinity)));
  }
  GENREC_INLINE void none(std::int64_t) const {}
};

template <class Element>
struct ExpLine {
  const float* line;
  Element* to;
  Vec top;
  const LineBias& bias;
  Vec& total;

  GENREC_INLINE void keep(std::int64_t c, const Vec& weight) const {
    total = total + weight;
    put(to + c, bias.drop(weight, c));
  }
  GENREC_INLINE void all(std::int64_t c) const { keep(c, weight_exp<Element>(load(line + c) - top)); }
  GENREC_INLINE void some(std::int64_t c, Mask mask) const {
    keep(c, choose(mask, weight_exp<Element>(load(line + c) - top), fill(0.0f)));
  }
  GENREC_INLINE void none(std::int64_t c) const { put(to + c, fill(0.0f)); }
};

// Products of a line -> e^(score - highest), dropped ones 0, at `to`; the line itself keeps scores. Returns the sum
// before dropping, or 0 where nothing is seen.
template <class Element>
static inline float softmax_line(float* line, Element* to, std::int64_t from, std::int64_t until, std::int64_t begin,
                                 const AttentionSeen& seen, float alpha, const LineBias& bias, float* highest) {
  Vec best = fill(negative_infinity), total = fill(0.0f);
  each_vector(seen, begin, from, until, ScoreLine{line, fill(alpha), bias, best});
  *highest = maximum(best);
  each_vector(seen, begin, from, until, ExpLine<Element>{line, to, fill(*highest), bias, total});
  return sum(total);
}

}  // namespace genrec::GENREC_ISA
