// Sixteen float32 lanes, the same on every instruction set: plain loops (base), 2 x __m256 (avx2), __m512 (avx512).
// Included by per-ISA files alone. Every function rounds like the scalar operation of its name, so all sets give equal
// bits, but for multiply_add (a * b + c), which is fused where the set can (`fused` always is); a Mask holds lane i in
// bit i.
#pragma once
#include <cstdint>

#define GENREC_VEC_base 0
#define GENREC_VEC_avx2 1
#define GENREC_VEC_avx512 2
#define GENREC_VEC_avx512_bf16 2
#define GENREC_VEC_JOIN_(isa) GENREC_VEC_##isa
#define GENREC_VEC_JOIN(isa) GENREC_VEC_JOIN_(isa)
#define GENREC_VEC GENREC_VEC_JOIN(GENREC_ISA)

// Whether this set multiplies bfloat16 pairs (vdpbf16ps).
#if GENREC_VEC == 2 && defined(__AVX512BF16__)
#define GENREC_BF16 1
#else
#define GENREC_BF16 0
#endif

#if GENREC_VEC > 0 || defined(__x86_64__) || defined(_M_X64)
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header trips over its "undefined" registers (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#endif
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define GENREC_INLINE __forceinline
#else
#define GENREC_INLINE inline __attribute__((always_inline))
#endif

namespace genrec::GENREC_ISA {

using Mask = std::uint32_t;
constexpr int lanes = 16;

static inline float float_of(std::uint32_t bits) {
  union {
    std::uint32_t u;
    float f;
  } both;
  both.u = bits;
  return both.f;
}

static inline std::uint32_t bits_of(float value) {
  union {
    float f;
    std::uint32_t u;
  } both;
  both.f = value;
  return both.u;
}

// Index of the lowest set bit; mask != 0.
static inline int lowest(Mask mask) {
#if defined(_MSC_VER) && !defined(__clang__)
  unsigned long index;
  _BitScanForward(&index, mask);
  return static_cast<int>(index);
#else
  return __builtin_ctz(mask);
#endif
}

static inline int count_bits(std::uint64_t word) {
#if GENREC_VEC > 0
  return static_cast<int>(_mm_popcnt_u64(word));
#else
  word -= word >> 1 & 0x5555555555555555u;
  word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
  return static_cast<int>(((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
#endif
}

// Inlined first of all: GCC takes a function that only prefetches for one that does nothing, and drops its calls.
static GENREC_INLINE void prefetch(const void* address) {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T0);
#elif defined(__GNUC__)
  __builtin_prefetch(address);
#else
  (void)address;
#endif
}

static inline float float_of_half(std::uint16_t half) {  // IEEE binary16, exact, subnormal numbers included
  const std::uint32_t magnitude = half & 0x7fffu, sign = (half & 0x8000u) << 16;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | magnitude << 13);  // infinity or NaN
  if (magnitude < 0x400u) return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
  return float_of(sign | ((magnitude << 13) + 0x38000000u));
}

#if GENREC_VEC == 2

struct Vec {
  __m512 v;
};
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Vec load_first(const float* p, int count) {  // below 16; zeros behind
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p)};
}
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
static inline Vec fill(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec fused(Vec a, Vec b, Vec c) { return multiply_add(a, b, c); }
// The greater; b where either is NaN.
static inline Vec greater(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Mask at_least(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
static inline Mask unordered(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q); }
// As floats, table[n mod 32] + (n << 18) for the n in the low bits of `counts` (see Powers in trie_step_cpu.cpp).
static inline Vec look_up_power(const std::uint32_t* table, Vec counts) {
  const __m512i n = _mm512_castps_si512(counts.v);
  const __m512i entry = _mm512_permutex2var_epi32(_mm512_loadu_si512(table), n, _mm512_loadu_si512(table + lanes));
  return {_mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_slli_epi32(n, 18)))};
}
static inline Vec load_bfloat16(const std::uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
static inline Vec load_half(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline Vec gather_512(const float* table, __m512i index, std::uint32_t last) {
  index = _mm512_min_epu32(index, _mm512_set1_epi32(static_cast<int>(last)));
  return {_mm512_i32gather_ps(index, table, 4)};
}
// table[min(index[i], last)]
static inline Vec gather(const float* table, const std::uint8_t* index, std::uint32_t last) {
  return gather_512(table, _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(index))), last);
}
static inline Vec gather(const float* table, const std::uint16_t* index, std::uint32_t last) {
  return gather_512(table, _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(index))), last);
}

#elif GENREC_VEC == 1

struct Vec {
  __m256 a, b;
};
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline Vec load_first(const float* p, int count) {
  const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i a = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), place);
  const __m256i b = _mm256_cmpgt_epi32(_mm256_set1_epi32(count - 8), place);
  return {_mm256_maskload_ps(p, a), _mm256_maskload_ps(p + 8, b)};
}
static inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static inline Vec fill(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline Vec operator+(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline Vec operator-(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline Vec operator*(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline Vec multiply_add(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline Vec fused(Vec x, Vec y, Vec z) { return multiply_add(x, y, z); }
static inline Vec greater(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline Mask join(__m256 a, __m256 b) {
  return static_cast<Mask>(_mm256_movemask_ps(a)) | static_cast<Mask>(_mm256_movemask_ps(b)) << 8;
}
static inline Mask at_least(Vec x, Vec y) {
  return join(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ));
}
static inline Mask unordered(Vec x, Vec y) {
  return join(_mm256_cmp_ps(x.a, y.a, _CMP_UNORD_Q), _mm256_cmp_ps(x.b, y.b, _CMP_UNORD_Q));
}
static inline __m256 look_up_half(const std::uint32_t* table, __m256 counts) {
  const __m256i n = _mm256_castps_si256(counts);
  const auto eight = [&](int first) {  // entry first + n mod 8
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(reinterpret_cast<const float*>(table + first)), n);
  };
  const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(n, 28)),
               bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(n, 27));
  const __m256 low = _mm256_blendv_ps(eight(0), eight(8), bit3), high = _mm256_blendv_ps(eight(16), eight(24), bit3);
  const __m256i entry = _mm256_castps_si256(_mm256_blendv_ps(low, high, bit4));
  return _mm256_castsi256_ps(_mm256_add_epi32(entry, _mm256_slli_epi32(n, 18)));
}
static inline Vec look_up_power(const std::uint32_t* table, Vec counts) {
  return {look_up_half(table, counts.a), look_up_half(table, counts.b)};
}
static inline __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
static inline Vec load_bfloat16(const std::uint16_t* p) {
  const __m256i a = _mm256_cvtepu16_epi32(load_128(p)), b = _mm256_cvtepu16_epi32(load_128(p + 8));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}
static inline Vec load_half(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(load_128(p)), _mm256_cvtph_ps(load_128(p + 8))};
}
static inline Vec gather_256(const float* table, __m256i a, __m256i b, std::uint32_t last) {
  const __m256i highest = _mm256_set1_epi32(static_cast<int>(last));
  return {_mm256_i32gather_ps(table, _mm256_min_epu32(a, highest), 4),
          _mm256_i32gather_ps(table, _mm256_min_epu32(b, highest), 4)};
}
static inline Vec gather(const float* table, const std::uint8_t* index, std::uint32_t last) {
  const __m128i all = load_128(index);
  return gather_256(table, _mm256_cvtepu8_epi32(all), _mm256_cvtepu8_epi32(_mm_srli_si128(all, 8)), last);
}
static inline Vec gather(const float* table, const std::uint16_t* index, std::uint32_t last) {
  return gather_256(table, _mm256_cvtepu16_epi32(load_128(index)), _mm256_cvtepu16_epi32(load_128(index + 8)), last);
}

#else

struct Vec {
  float v[lanes];
};
static inline Vec load(const float* p) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = p[i];
  return out;
}
static inline Vec load_first(const float* p, int count) {
  Vec out = {};
  for (int i = 0; i < count; ++i) out.v[i] = p[i];
  return out;
}
static inline void store(float* p, const Vec& a) {
  for (int i = 0; i < lanes; ++i) p[i] = a.v[i];
}
static inline Vec fill(float x) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = x;
  return out;
}
static inline Vec operator+(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = a.v[i] + b.v[i];
  return out;
}
static inline Vec operator-(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = a.v[i] - b.v[i];
  return out;
}
static inline Vec operator*(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = a.v[i] * b.v[i];
  return out;
}
static inline Vec multiply_add(const Vec& a, const Vec& b, const Vec& c) { return a * b + c; }
// Rounded once, to float64, and then to float32: the same unless float64 makes a tie of what is not one. Callers know
// that it does not.
static inline Vec fused(const Vec& a, const Vec& b, const Vec& c) {
  Vec out;
#if defined(__ARM_FEATURE_FMA)
  for (int i = 0; i < lanes; ++i) out.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
#else
  for (int i = 0; i < lanes; ++i)
    out.v[i] =
        static_cast<float>(static_cast<double>(a.v[i]) * static_cast<double>(b.v[i]) + static_cast<double>(c.v[i]));
#endif
  return out;
}
static inline Vec greater(const Vec& a, const Vec& b) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return out;
}
static inline Mask at_least(const Vec& a, const Vec& b) {
  std::uint32_t any = 0, mask = 0;
  for (int i = 0; i < lanes; ++i) any |= a.v[i] >= b.v[i] ? 1u : 0u;  // one vector test; most often nothing passes
  if (any == 0) return 0;
  for (int i = 0; i < lanes; ++i) mask |= (a.v[i] >= b.v[i] ? 1u : 0u) << i;
  return mask;
}
static inline Mask unordered(const Vec& a, const Vec& b) {  // nonzero if any lane holds a NaN
  std::uint32_t any = 0;
  for (int i = 0; i < lanes; ++i) any |= (a.v[i] != a.v[i] ? 1u : 0u) | (b.v[i] != b.v[i] ? 1u : 0u);
  return any;
}
static inline Vec look_up_power(const std::uint32_t* table, const Vec& counts) {
  Vec out;
  for (int i = 0; i < lanes; ++i) {
    const std::uint32_t n = bits_of(counts.v[i]);
    out.v[i] = float_of(table[n & 31u] + (n << 18));
  }
  return out;
}
static inline Vec load_bfloat16(const std::uint16_t* p) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = float_of(static_cast<std::uint32_t>(p[i]) << 16);
  return out;
}
static inline Vec load_half(const std::uint16_t* p) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = float_of_half(p[i]);
  return out;
}
template <typename Index>
static inline Vec gather(const float* table, const Index* index, std::uint32_t last) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = table[index[i] < last ? index[i] : last];
  return out;
}

#endif

// Folds sixteen lanes to one: lane j with lane j + 8, then + 4, + 2, + 1.
#if GENREC_VEC > 0

template <class Join, class JoinEight>
static inline float fold(Vec x, Join join, JoinEight join_eight) {
#if GENREC_VEC == 2
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1));
  const __m256 eight = join_eight(_mm512_castps512_ps256(x.v), high);
#else
  const __m256 eight = join_eight(x.a, x.b);
#endif
  __m128 four = join(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = join(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(join(four, _mm_movehdup_ps(four)));
}
static inline float sum(Vec x) {
  return fold(
      x, [](__m128 a, __m128 b) { return _mm_add_ps(a, b); }, [](__m256 a, __m256 b) { return _mm256_add_ps(a, b); });
}
// What a NaN among the lanes gives is not defined (see `unordered`).
static inline float maximum(Vec x) {
  return fold(
      x, [](__m128 a, __m128 b) { return _mm_max_ps(a, b); }, [](__m256 a, __m256 b) { return _mm256_max_ps(a, b); });
}

#else

static inline float sum(Vec a) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
static inline float maximum(Vec a) {
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}

#endif

}  // namespace genrec::GENREC_ISA
