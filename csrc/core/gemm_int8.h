// The micro-kernel on 8-bit numbers: rows of unsigned bytes with packed panels of signed ones, exact int32 sums.
//
// A row of floats becomes bytes by its own scale, x = scale * (byte - 128); a panel's columns have scales of their own:
//
//   sum over d of x[d] w[j][d] = row_scale * column_scale[j] * (sum of byte * weight - 128 * sum of weights[j])
//
// Sums are exact on every instruction set (up to a depth of 65,000), so sets agree to the bit. Element (j, d) of a
// panel stands at (d / 4 * panel_width + j % panel_width) * 4 + d % 4; the depth is a multiple of 4, padded with
// weights of 0. Included by per-ISA files alone.
#pragma once
#include <cstdint>

#include "core/gemm.h"

// Whether this set adds four products of bytes at a time (vpdpbusd).
#if GENREC_VEC == 2 && defined(__AVX512VNNI__)
#define GENREC_VNNI 1
#else
#define GENREC_VNNI 0
#endif

// Whether base multiplies in quarters of a vector, by SSE2.
#if GENREC_VEC == 0 && defined(__x86_64__) && defined(__GNUC__)
#define GENREC_INT8_QUADS 1
#else
#define GENREC_INT8_QUADS 0
#endif

namespace genrec::GENREC_ISA {

#if GENREC_VEC == 2
struct Ints {
  __m512i v;
};
// (x - 128 * y) as floats
static GENREC_INLINE Vec without_offset(Ints x, const std::int32_t* y) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(x.v, _mm512_slli_epi32(_mm512_loadu_si512(y), 7)))};
}
#elif GENREC_VEC == 1
struct Ints {
  __m256i a, b;
};
static GENREC_INLINE Vec without_offset(Ints x, const std::int32_t* y) {
  const __m256i* from = reinterpret_cast<const __m256i*>(y);
  const __m256i a = _mm256_slli_epi32(_mm256_loadu_si256(from), 7);
  const __m256i b = _mm256_slli_epi32(_mm256_loadu_si256(from + 1), 7);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(x.a, a)), _mm256_cvtepi32_ps(_mm256_sub_epi32(x.b, b))};
}
#else
struct Ints {
  std::int32_t v[lanes];
};
static GENREC_INLINE Ints no_ints() { return Ints{}; }
static GENREC_INLINE Vec without_offset(const Ints& x, const std::int32_t* y) {
  Vec out;
  for (int i = 0; i < lanes; ++i) out.v[i] = static_cast<float>(x.v[i] - 128 * y[i]);
  return out;
}
#endif

// The bits of the largest |x|; those of an infinity or a NaN are above all others.
struct Largest {
#if GENREC_VEC == 2
  __m512i top = _mm512_setzero_si512();
  void add(Vec x) {
    top = _mm512_max_epi32(top, _mm512_and_si512(_mm512_castps_si512(x.v), _mm512_set1_epi32(0x7fffffff)));
  }
  std::uint32_t bits() const { return static_cast<std::uint32_t>(_mm512_reduce_max_epi32(top)); }
#else
#if GENREC_VEC == 1
  __m256i top = _mm256_setzero_si256();
  void add(Vec x) {
    const __m256i all = _mm256_set1_epi32(0x7fffffff);
    top = _mm256_max_epi32(top, _mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(x.a), all),
                                                 _mm256_and_si256(_mm256_castps_si256(x.b), all)));
  }
#else
  std::int32_t top[lanes] = {};
  void add(const Vec& x) {
    for (int i = 0; i < lanes; ++i) {
      const std::int32_t bits = static_cast<std::int32_t>(bits_of(x.v[i]) & 0x7fffffffu);
      top[i] = bits > top[i] ? bits : top[i];
    }
  }
#endif
  std::uint32_t bits() const {
    std::int32_t words[sizeof(top) / 4], most = 0;
    __builtin_memcpy(words, &top, sizeof(top));
    for (const std::int32_t word : words) most = word > most ? word : most;
    return static_cast<std::uint32_t>(most);
  }
#endif
};

// The low byte of each lane's bits.
static GENREC_INLINE void store_bytes(std::uint8_t* out, const Vec& x) {
#if GENREC_VEC == 2
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(_mm512_castps_si512(x.v)));
#elif GENREC_VEC == 1
  const __m256i low = _mm256_set1_epi32(255);
  const __m256i a = _mm256_and_si256(_mm256_castps_si256(x.a), low);
  const __m256i b = _mm256_and_si256(_mm256_castps_si256(x.b), low);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
#elif GENREC_INT8_QUADS
  const auto low = [&](int q) {
    return _mm_and_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x.v) + q), _mm_set1_epi32(255));
  };
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm_packus_epi16(_mm_packs_epi32(low(0), low(1)), _mm_packs_epi32(low(2), low(3))));
#else
  for (int i = 0; i < lanes; ++i) out[i] = static_cast<std::uint8_t>(bits_of(x.v[i]));
#endif
}

static GENREC_INLINE Vec load_some(const float* x, std::int64_t count) {
  if (count >= lanes) return load(x);
  float line[lanes] = {};
  for (std::int64_t i = 0; i < count; ++i) line[i] = x[i];
  return load(line);
}

// Bytes of `count` floats by nearest even, in whole vectors of bytes: 128, which stands for 0, behind the last. Returns
// the row's scale: 0 where all floats are below 1e-30, NaN where one is not finite (so that its products are NaN).
static inline float quantize_row(const float* x, std::int64_t count, std::uint8_t* out) {
  Largest top;
  for (std::int64_t c = 0; c < count; c += lanes) top.add(load_some(x + c, count - c));
  const float largest = float_of(top.bits());
  const bool finite = top.bits() < 0x7f800000u;
  const float inverse = finite && largest > 1e-30f ? 127.0f / largest : 0.0f;
  // The sum with 1.5 * 2^23 holds the nearest integer in its low bits; with 128 more, the byte.
  const Vec magic = fill(12583040.0f), by = fill(inverse);
  for (std::int64_t c = 0; c < count; c += lanes) store_bytes(out + c, load_some(x + c, count - c) * by + magic);
  if (!finite) return float_of(0x7fc00000u);
  return inverse == 0.0f ? 0.0f : largest / 127.0f;
}

template <int Rows, int Vecs>
static GENREC_INLINE void multiply_int8(const std::uint8_t* a, std::int64_t stride, const std::int8_t* panel,
                                        std::int64_t next, std::int64_t depth, Ints (&sums)[Rows][Vecs]) {
  const auto at = [&](std::int64_t d, int v) {
    return panel + v / panel_vecs * next + d * panel_width + v % panel_vecs * lanes * 4;
  };
#if GENREC_VEC > 0 || GENREC_INT8_QUADS
  const auto four = [&](int r, std::int64_t d) {
    std::int32_t bytes;
    __builtin_memcpy(&bytes, a + r * stride + d, 4);
    return bytes;
  };
#endif
#if GENREC_VEC == 2
  // 12 x 32 reached 95 % of the rate of vpdpbusd of a Zen 4 core at a depth of 1024, 86 % at 128 (the ending's stores).
  // Bare words of 32 bits: the compiler stores sums in structures, or of another type, in every round.
  typedef int Words __attribute__((vector_size(64)));
  Words c[Rows][Vecs];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) c[r][v] = (Words)_mm512_setzero_si512();
  for (std::int64_t d = 0; d < depth; d += 4) {
    __m512i b[Vecs];
    for (int v = 0; v < Vecs; ++v) {
      b[v] = _mm512_loadu_si512(at(d, v));
      if (Rows == tile_rows) prefetch(at(d + 4 * steps_ahead, v));
    }
#if GENREC_VNNI
    for (int r = 0; r < Rows; ++r) {
      const __m512i x = _mm512_set1_epi32(four(r, d));
      for (int v = 0; v < Vecs; ++v) c[r][v] = (Words)_mm512_dpbusd_epi32((__m512i)c[r][v], x, b[v]);
    }
#else
    // Even and odd bytes apart, as words: pairs of products never leave 32 bits (vpmaddubsw would saturate at 16).
    __m512i odd[Vecs];
    for (int v = 0; v < Vecs; ++v) {
      odd[v] = _mm512_srai_epi16(b[v], 8);
      b[v] = _mm512_srai_epi16(_mm512_slli_epi16(b[v], 8), 8);
    }
    for (int r = 0; r < Rows; ++r) {
      const __m512i x = _mm512_set1_epi32(four(r, d));
      const __m512i x_even = _mm512_and_si512(x, _mm512_set1_epi16(255)), x_odd = _mm512_srli_epi16(x, 8);
      for (int v = 0; v < Vecs; ++v) {
        const __m512i pairs = _mm512_add_epi32(_mm512_madd_epi16(x_even, b[v]), _mm512_madd_epi16(x_odd, odd[v]));
        c[r][v] += (Words)pairs;
      }
    }
#endif
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) sums[r][v].v = (__m512i)c[r][v];
#elif GENREC_VEC == 1
  typedef int Words __attribute__((vector_size(32)));
  Words c[Rows][Vecs][2];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) c[r][v][0] = c[r][v][1] = (Words)_mm256_setzero_si256();
  for (std::int64_t d = 0; d < depth; d += 4)
    for (int v = 0; v < Vecs; ++v) {
      __m256i even[2], odd[2];
      for (int half = 0; half < 2; ++half) {
        const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at(d, v)) + half);
        even[half] = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8), odd[half] = _mm256_srai_epi16(b, 8);
      }
      for (int r = 0; r < Rows; ++r) {
        const __m256i x = _mm256_set1_epi32(four(r, d));
        const __m256i x_even = _mm256_and_si256(x, _mm256_set1_epi16(255)), x_odd = _mm256_srli_epi16(x, 8);
        for (int half = 0; half < 2; ++half)
          c[r][v][half] +=
              (Words)_mm256_add_epi32(_mm256_madd_epi16(x_even, even[half]), _mm256_madd_epi16(x_odd, odd[half]));
      }
    }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) sums[r][v].a = (__m256i)c[r][v][0], sums[r][v].b = (__m256i)c[r][v][1];
#elif GENREC_INT8_QUADS
  typedef int Quads __attribute__((vector_size(16)));
  Quads c[Rows][Vecs][4];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v)
      for (int q = 0; q < 4; ++q) c[r][v][q] = (Quads)_mm_setzero_si128();
  for (std::int64_t d = 0; d < depth; d += 4) {
    __m128i even[Rows], odd[Rows];
    for (int r = 0; r < Rows; ++r) {
      const __m128i x = _mm_set1_epi32(four(r, d));
      even[r] = _mm_and_si128(x, _mm_set1_epi16(255)), odd[r] = _mm_srli_epi16(x, 8);
    }
    for (int v = 0; v < Vecs; ++v)
      for (int q = 0; q < 4; ++q) {
        const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at(d, v)) + q);
        const __m128i b_even = _mm_srai_epi16(_mm_slli_epi16(b, 8), 8), b_odd = _mm_srai_epi16(b, 8);
        for (int r = 0; r < Rows; ++r)
          c[r][v][q] += (Quads)_mm_add_epi32(_mm_madd_epi16(even[r], b_even), _mm_madd_epi16(odd[r], b_odd));
      }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) __builtin_memcpy(sums[r][v].v, c[r][v], sizeof(sums[r][v].v));
#else
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < Vecs; ++v) sums[r][v] = no_ints();
  for (std::int64_t d = 0; d < depth; d += 4)
    for (int v = 0; v < Vecs; ++v)
      for (int r = 0; r < Rows; ++r) {
        const std::uint8_t* x = a + r * stride + d;
        for (int i = 0; i < lanes; ++i)
          for (int g = 0; g < 4; ++g) sums[r][v].v[i] += x[g] * at(d, v)[i * 4 + g];
      }
#endif
}

// What makes floats of the sums.
struct Scales {
  const float *rows, *columns;
  const std::int32_t* sums;  // of each column's weights
};

template <int Rows, int Vecs, class Ending>
static GENREC_INLINE void tile_int8(const std::uint8_t* a, std::int64_t stride, const std::int8_t* panel,
                                    std::int64_t next, std::int64_t depth, std::int64_t row, std::int64_t column,
                                    const Scales& scales, Ending& ending) {
  Ints sums[Rows][Vecs];
  multiply_int8<Rows, Vecs>(a, stride, panel, next, depth, sums);
  Vec found[Rows][Vecs];
  for (int v = 0; v < Vecs; ++v) {
    const Vec by = load(scales.columns + column + v * lanes);
    for (int r = 0; r < Rows; ++r)
      found[r][v] = without_offset(sums[r][v], scales.sums + column + v * lanes) * (by * fill(scales.rows[row + r]));
  }
  ending.template finish<Rows, Vecs>(row, column, found);
}

template <int Rows, int Panels, class Ending>
static inline void strip_int8(const std::uint8_t* a, std::int64_t stride, const std::int8_t* panels, std::int64_t first,
                              std::int64_t last, std::int64_t depth, std::int64_t row, const Scales& scales,
                              Ending& ending) {
  const std::int64_t next = depth * panel_width;
  std::int64_t p = first;
  for (; p + Panels <= last; p += Panels)
    tile_int8<Rows, Panels * panel_vecs>(a, stride, panels + p * next, next, depth, row, p * panel_width, scales,
                                         ending);
  if constexpr (Panels > 1)
    for (; p < last; ++p)
      tile_int8<Rows, panel_vecs>(a, stride, panels + p * next, next, depth, row, p * panel_width, scales, ending);
}

// Rows [0, num_rows) with whole panels [first, last): the ending gets finish<Rows, Vecs>(row, column, floats) alone.
template <class Ending>
static inline void product_int8(const std::uint8_t* a, std::int64_t stride, std::int64_t num_rows,
                                const std::int8_t* panels, std::int64_t first, std::int64_t last, std::int64_t depth,
                                const Scales& scales, Ending& ending) {
  std::int64_t row = 0;
  for (; row + tile_rows <= num_rows; row += tile_rows)
    strip_int8<tile_rows, 1>(a + row * stride, stride, panels, first, last, depth, row, scales, ending);
#if GENREC_VEC > 0
  for (; row + 4 <= num_rows; row += 4)
    strip_int8<4, 1>(a + row * stride, stride, panels, first, last, depth, row, scales, ending);
  for (; row + 2 <= num_rows; row += 2)
    strip_int8<2, 2>(a + row * stride, stride, panels, first, last, depth, row, scales, ending);
#endif
  for (; row < num_rows; ++row)
    strip_int8<1, GENREC_VEC ? 4 : 1>(a + row * stride, stride, panels, first, last, depth, row, scales, ending);
}

}  // namespace genrec::GENREC_ISA
