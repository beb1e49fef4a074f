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
