// exp and sigmoid on sixteen lanes, and masks as lanes. Fast forms: they agree between instruction sets to rounding,
// not to the bit (trie_step has an exp that does). Included by per-ISA files alone.
#pragma once
#include <cstdint>

#include "core/vec.h"

namespace genrec::GENREC_ISA {

// p * 2^n, n a whole number in [-126, 127]; `rounded` holds n in its low bits.
static inline Vec times_power(const Vec& p, const Vec& n, const Vec& rounded) {
#if GENREC_VEC == 2
  (void)rounded;
  return {_mm512_scalef_ps(p.v, n.v)};
#elif GENREC_VEC == 1
  (void)n;
  const __m256i one = _mm256_set1_epi32(0x3f800000);
  const __m256i a = _mm256_slli_epi32(_mm256_castps_si256(rounded.a), 23);
  const __m256i b = _mm256_slli_epi32(_mm256_castps_si256(rounded.b), 23);
  return {_mm256_mul_ps(p.a, _mm256_castsi256_ps(_mm256_add_epi32(a, one))),
          _mm256_mul_ps(p.b, _mm256_castsi256_ps(_mm256_add_epi32(b, one)))};
#else
  (void)n;
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = p.v[i] * float_of((bits_of(rounded.v[i]) << 23) + 0x3f800000u);
  return out;
#endif
}

// e^x for x <= 88, relative error below 3e-7; below -87 what it is there (2e-38). NaN gives NaN.
static inline Vec exp_of(const Vec& any) {
  const Vec x = greater(fill(-87.0f), any);
  const Vec round = fill(12582912.0f);  // leaves the nearest integer n in the low bits of the sum
  const Vec rounded = multiply_add(x, fill(1.44269502f), round);
  const Vec n = rounded - round;
  // ln 2 in two parts, the first with zeros at its end: n times it is exact.
  Vec r = multiply_add(n, fill(-0.693359375f), x);
  r = multiply_add(n, fill(2.12194440e-4f), r);
  Vec p = multiply_add(fill(1.9875691500e-4f), r, fill(1.3981999507e-3f));
  p = multiply_add(p, r, fill(8.3334519073e-3f));
  p = multiply_add(p, r, fill(4.1665795894e-2f));
  p = multiply_add(p, r, fill(1.6666665459e-1f));
  p = multiply_add(p, r, fill(5.0000001201e-1f));
  p = multiply_add(p, r * r, r) + fill(1.0f);
  return times_power(p, n, rounded);
}

// 1 / x for x in [1, 1e37], relative error below 2e-7.
static inline Vec reciprocal(const Vec& x) {
#if GENREC_VEC == 2
  const __m512 y = _mm512_rcp14_ps(x.v);
  return {_mm512_mul_ps(y, _mm512_fnmadd_ps(x.v, y, _mm512_set1_ps(2.0f)))};
#elif GENREC_VEC == 1
  const __m256 one = _mm256_set1_ps(1.0f);
  return {_mm256_div_ps(one, x.a), _mm256_div_ps(one, x.b)};
#else
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = 1.0f / x.v[i];
  return out;
#endif
}

// 1 / (1 + e^-x); below -80 what it is there (2e-35).
static inline Vec sigmoid(const Vec& x) {
  return reciprocal(fill(1.0f) + exp_of(fill(0.0f) - greater(fill(-80.0f), x)));
}

#if GENREC_BF16

// e^x for x <= 88, relative error below 9e-5: a twentieth of what rounding to bfloat16 may add. Else as `exp_of`.
static inline Vec rough_exp_of(const Vec& any) {
  const Vec power = greater(fill(-87.0f), any) * fill(1.44269502f);
  const Vec round = fill(12582912.0f), rounded = power + round, n = rounded - round, f = power - n;
  Vec p = multiply_add(fill(5.51713838e-2f), f, fill(2.42611235e-1f));
  p = multiply_add(p, f, fill(6.93261030e-1f));
  p = multiply_add(p, f, fill(9.99928070e-1f));
  return times_power(p, n, rounded);
}

// As `sigmoid`, relative error below 2e-4.
static inline Vec rough_sigmoid(const Vec& x) {
  return {_mm512_rcp14_ps((fill(1.0f) + rough_exp_of(fill(0.0f) - greater(fill(-80.0f), x))).v)};
}

#endif

// out[i] = log x[i] for sixteen x, positive and normal, within 2e-7 of the greater of 1 and it; NaN gives NaN. A loop
// that compilers make vectors of.
static inline void log_of(const float* x, float* out) {
  for (int i = 0; i < lanes; ++i) {
    const std::uint32_t above = bits_of(x[i]) - 0x3f3504f3u;  // of the root of 1/2: m from there to its double
    const std::uint32_t power = above & 0xff800000u;
    const float e = static_cast<float>(static_cast<std::int32_t>(power) / (1 << 23));
    const float f = float_of(bits_of(x[i]) - power) - 1.0f, square = f * f;
    float p = 7.0376836292e-2f * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * square - 2.12194440e-4f * e - 0.5f * square;
    out[i] = f + p + 0.693359375f * e + (x[i] - x[i]);
  }
}

// Bits [first, last) of sixteen, clamped.
static inline Mask between(std::int64_t first, std::int64_t last) {
  if (first < 0) first = 0;
  if (last > lanes) last = lanes;
  return first >= last ? 0u : ((1u << last) - 1u) & ~((1u << first) - 1u);
}

#if GENREC_VEC == 2

// a where the mask has a bit, else b.
static inline Vec choose(Mask mask, Vec a, Vec b) {
  return {_mm512_mask_mov_ps(b.v, static_cast<__mmask16>(mask), a.v)};
}

#elif GENREC_VEC == 1

static inline __m256 lanes_of(Mask mask) {  // the low eight bits
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit));
}
static inline Vec choose(Mask mask, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.a, a.a, lanes_of(mask)), _mm256_blendv_ps(b.b, a.b, lanes_of(mask >> 8))};
}

#else

static inline Vec choose(Mask mask, const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = mask >> i & 1u ? a.v[i] : b.v[i];
  return out;
}

#endif

// A bijection of 32-bit words that scatters them well.
static inline std::uint32_t mix(std::uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// Bit i: mix(row + (key + i) * 0x9e3779b9) reaches the threshold.
static inline Mask mixed_at_least(std::uint32_t row, std::uint32_t key, std::uint32_t threshold) {
  constexpr std::uint32_t golden = 0x9e3779b9u;
#if GENREC_VEC == 2
  const __m512i step = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i keys = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(key)), step);
  __m512i x = _mm512_add_epi32(_mm512_mullo_epi32(keys, _mm512_set1_epi32(static_cast<int>(golden))),
                               _mm512_set1_epi32(static_cast<int>(row)));
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), _mm512_set1_epi32(0x7feb352d));
  x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)),
                         _mm512_set1_epi32(static_cast<int>(0x846ca68bu)));
  x = _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
  return _mm512_cmpge_epu32_mask(x, _mm512_set1_epi32(static_cast<int>(threshold)));
#else
  Mask mask = 0;
  std::uint32_t number[lanes];
  for (std::uint32_t i = 0; i < lanes; ++i) number[i] = mix(row + (key + i) * golden);
  for (int i = 0; i < lanes; ++i) mask |= (number[i] >= threshold ? 1u : 0u) << i;
  return mask;
#endif
}

}  // namespace genrec::GENREC_ISA
