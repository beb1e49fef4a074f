// The one micro-kernel: a register-blocked product of rows with packed panels, and an ending chosen at compile time.
//
//   out[i][j] = start(j) + sum over d of a[i][d] * b[j][d]          i < num_rows, j < num_columns
//
// `a` lies row-major as it is (its elements are broadcast, so it needs no packing); `b`, one row per output column, is
// packed once into panels of `panel_width` columns. A tile of `tile_rows` x `panel_width` sums stays in registers from
// its first product to its ending, so nothing is written that the ending does not want: it may keep a minimum, apply an
// activation, add to a running sum of exponentials, or store.
//
// Rounding: on avx2 and avx512 every sum is one chain of fused multiply-adds in the order of d; base rounds each
// product too. So sets agree to rounding, not to the bit: `sum_error` bounds it, and callers that promise equal results
// prove them with that bound (see rq_encode_cpu.cpp). Included by per-ISA files alone.
#pragma once
#include <cstdint>

#include "core/transpose.h"
#include "core/vec.h"

namespace genrec::GENREC_ISA {

// Registers decide the tile: sums, the panel's row and one broadcast must fit (32 of 512 bits, 16 of 256, 16 of 128).
// 12 x 32 reached 96 % of the fused multiply-add rate of a Zen 4 core, 14 x 32 and 8 x 48 were no faster.
#if GENREC_VEC == 2
constexpr int tile_rows = 12, panel_vecs = 2;
#elif GENREC_VEC == 1
constexpr int tile_rows = 6, panel_vecs = 1;
#else
constexpr int tile_rows = 2, panel_vecs = 1;
#endif
constexpr int panel_width = panel_vecs * lanes;

constexpr std::int64_t num_panels(std::int64_t num_columns) { return (num_columns + panel_width - 1) / panel_width; }
// Floats that `pack` writes.
constexpr std::int64_t packed_size(std::int64_t num_columns, std::int64_t depth) {
  return num_panels(num_columns) * panel_width * depth;
}

// Columns [first, last) of b, float32 [num_columns, depth] with `stride` floats from row to row, into panels
// [first / panel_width, ...): element (j, d) goes to panel j / panel_width, place d * panel_width + j % panel_width.
// `first` is a multiple of panel_width; missing columns of the last panel become 0.
static inline void pack(const float* b, std::int64_t stride, std::int64_t first, std::int64_t last, std::int64_t depth,
                        float* packed) {
  for (std::int64_t column = first; column < last; column += panel_width) {
    float* panel = packed + column * depth;
    const int here = last - column < panel_width ? static_cast<int>(last - column) : panel_width;
    std::int64_t from = 0;
    for (; from + lanes <= depth; from += lanes)
      for (int j = 0; j < panel_width; j += lanes)
        transpose(b + (column + j) * stride + from, stride, here - j, panel + from * panel_width + j, panel_width);
    for (int j = 0; j < panel_width; ++j)
      for (std::int64_t d = from; d < depth; ++d)
        panel[d * panel_width + j] = j < here ? b[(column + j) * stride + d] : 0.0f;
  }
}

// The nearest bfloat16 of a finite x, ties to even; subnormal numbers become 0, as the multiplier reads them.
static inline std::uint16_t bfloat16_of(float x) {
  const std::uint32_t bits = bits_of(x);
  if ((bits & 0x7f800000u) == 0) return static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#if GENREC_BF16
static inline void store_bfloat16(std::uint16_t* out, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(x.v));
}

// 16 floats as bfloat16_of rounds them, stored; their rounding errors.
static inline Vec round_to_bfloat16(const float* x, std::uint16_t* out) {
  const __m512 wide = _mm512_loadu_ps(x);
  const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(wide);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), narrow);
  return Vec{wide} - load_bfloat16(out);
}

// `pack` in bfloat16, depth made even (see the second `multiply`). largest_squares: raised to the largest sum over a
// column of the squares of what rounding took away.
static inline void pack(const float* b, std::int64_t stride, std::int64_t first, std::int64_t last, std::int64_t depth,
                        std::uint16_t* packed, float* largest_squares) {
  for (std::int64_t column = first; column < last; column += panel_width) {
    std::uint16_t* panel = packed + column * (depth + depth % 2);
    const int here = last - column < panel_width ? static_cast<int>(last - column) : panel_width;
    Vec lost[panel_width];
    for (int j = 0; j < panel_width; ++j) lost[j] = fill(0.0f);
    for (std::int64_t from = 0; from < depth; from += lanes) {
      const int count = depth - from < lanes ? static_cast<int>(depth - from) : lanes;
      for (int j = 0; j < panel_width; ++j) {
        alignas(64) float x[lanes] = {};
        alignas(64) std::uint32_t pairs[lanes / 2];
        if (j < here) {
          const float* column_j = b + (column + j) * stride + from;
          if (count == lanes)
            store(x, load(column_j));
          else
            for (int d = 0; d < count; ++d) x[d] = column_j[d];
        }
        const Vec rest = round_to_bfloat16(x, reinterpret_cast<std::uint16_t*>(pairs));
        lost[j] = multiply_add(rest, rest, lost[j]);
        std::uint16_t* place = panel + (from / 2 * panel_width + j) * 2;
        for (int d = 0; d < (count + 1) / 2; ++d) __builtin_memcpy(place + d * panel_width * 2, pairs + d, 4);
      }
    }
    for (int j = 0; j < here; ++j) {
      const float squares = sum(lost[j]);
      *largest_squares = squares > *largest_squares ? squares : *largest_squares;
    }
  }
}
#endif

// Vectors that hold `count` columns.
constexpr std::int64_t num_vectors(std::int64_t count) { return (count + lanes - 1) / lanes; }

// Rows of `num_columns` elements as panels of their columns: element (j, c) at
// (c / panel_width * padded + j) * panel_width + c % panel_width, `padded` rows at least num_rows; columns behind the
// last and rows behind num_rows become 0.
static inline void pack_rows(const float* rows, std::int64_t stride, std::int64_t num_rows, std::int64_t padded,
                             std::int64_t num_columns, float* panels) {
  for (std::int64_t column = 0; column < num_columns; column += panel_width) {
    float* panel = panels + column * padded;
    const std::int64_t here = num_columns - column < panel_width ? num_columns - column : panel_width;
    for (std::int64_t j = 0; j < num_rows; ++j) {
      const float* row = rows + j * stride + column;
      float* to = panel + j * panel_width;
      if (here == panel_width) {
        for (int v = 0; v < panel_vecs; ++v) store(to + v * lanes, load(row + v * lanes));
      } else {
        for (int c = 0; c < panel_width; ++c) to[c] = c < here ? row[c] : 0.0f;
      }
    }
    for (std::int64_t i = num_rows * panel_width; i < padded * panel_width; ++i) panel[i] = 0.0f;
  }
}

#if GENREC_BF16
// The same for bfloat16 rows as the products read them: rows in pairs, element (j, c) at
// (c / panel_width * padded + j / 2 * 2) * panel_width + c % panel_width * 2 + j % 2, `padded` even.
static inline void pack_rows(const std::uint16_t* rows, std::int64_t stride, std::int64_t num_rows, std::int64_t padded,
                             std::int64_t num_columns, std::uint16_t* panels) {
  for (std::int64_t column = 0; column < num_columns; column += lanes) {
    std::uint16_t* panel = panels + column / panel_width * panel_width * padded + column % panel_width * 2;
    const std::int64_t here = num_columns - column < lanes ? num_columns - column : lanes;
    const __mmask16 inside = static_cast<__mmask16>((1u << here) - 1u);
    for (std::int64_t j = 0; j < num_rows; j += 2) {
      const std::uint16_t* row = rows + j * stride + column;
      const __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(inside, row));
      const __m512i second = j + 1 < num_rows ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(inside, row + stride))
                                              : _mm512_setzero_si512();
      _mm512_storeu_si512(panel + j * panel_width, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
    }
  }
}
#endif

// Largest relative error of a sum of `depth` products and a start, against sum |a b| + |start|, in any order of
// additions; base rounds the products too.
constexpr float sum_error(std::int64_t depth) {
  return static_cast<float>((GENREC_VEC == 0 ? 2 : 1) * depth + 16) * 0x1p-24f;
}

#if GENREC_VEC == 0 && defined(__GNUC__)
// The compiler keeps whole registers apart where it would spill an array of sixteen floats.
typedef float Quad __attribute__((vector_size(16)));  // SSE2, NEON
struct Sum {
  Quad q[4];
};
static GENREC_INLINE Sum load_sum(const float* p) {
  Sum out;
  for (int i = 0; i < 4; ++i) out.q[i] = Quad{p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]};
  return out;
}
static GENREC_INLINE Sum fill_sum(float x) {
  return {{Quad{x, x, x, x}, Quad{x, x, x, x}, Quad{x, x, x, x}, Quad{x, x, x, x}}};
}
static GENREC_INLINE Sum multiply_add(const Sum& a, const Sum& b, const Sum& c) {
  Sum out;
  for (int i = 0; i < 4; ++i) out.q[i] = a.q[i] * b.q[i] + c.q[i];
  return out;
}
static GENREC_INLINE Sum to_sum(const Vec& a) { return load_sum(a.v); }
static GENREC_INLINE void from_sum(const Sum& a, Vec& out) {
  for (int i = 0; i < lanes; ++i) out.v[i] = a.q[i / 4][i % 4];
}
#else
using Sum = Vec;
static GENREC_INLINE Sum load_sum(const float* p) { return load(p); }
static GENREC_INLINE Sum fill_sum(float x) { return fill(x); }
static GENREC_INLINE Sum to_sum(Vec a) { return a; }
static GENREC_INLINE void from_sum(Sum a, Vec& out) { out = a; }
#endif

// A panel is read faster than the third cache announces its next lines: a product of 50 rows with 512 KiB of weights
// that were not at hand took 169 us, 153 us with this, 145 us with huge pages too, and 141 us from the second cache.
constexpr int steps_ahead = 24;

// How the rows of `a` lie: element (r, d) at a[r * stride + d], or, by depth, at a[d * stride + r].
enum class Order { by_row, by_depth };

// sums[r][v] += a[r] * panel, over the whole depth: Vecs vectors of columns, of one panel or of several that are `next`
// elements apart.
template <int Rows, int Vecs, Order order = Order::by_row>
static GENREC_INLINE void multiply(const float* a, std::int64_t stride, const float* panel, std::int64_t next,
                                   std::int64_t depth, Vec (&sums)[Rows][Vecs]) {
  constexpr int vecs = Vecs;
  Sum c[Rows][vecs];
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < vecs; ++v) c[r][v] = to_sum(sums[r][v]);
  for (std::int64_t d = 0; d < depth; ++d) {
    Sum b[vecs];
    for (int v = 0; v < vecs; ++v) {
      const float* at = panel + v / panel_vecs * next + d * panel_width + v % panel_vecs * lanes;
      b[v] = load_sum(at);
      if (Rows == tile_rows) prefetch(at + steps_ahead * panel_width);
    }
    for (int r = 0; r < Rows; ++r) {
      const Sum x = fill_sum(order == Order::by_row ? a[r * stride + d] : a[d * stride + r]);
      for (int v = 0; v < vecs; ++v) c[r][v] = multiply_add(x, b[v], c[r][v]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < vecs; ++v) from_sum(c[r][v], sums[r][v]);
}

#if GENREC_BF16
// The same on bfloat16, two products per lane and step. `depth` is even; element (j, d) of a panel stands at
// (d / 2 * panel_width + j % panel_width) * 2 + d % 2. Products are exact, sums float32.
template <int Rows, int Vecs, Order order = Order::by_row>
static GENREC_INLINE void multiply(const std::uint16_t* a, std::int64_t stride, const std::uint16_t* panel,
                                   std::int64_t next, std::int64_t depth, Vec (&sums)[Rows][Vecs]) {
  static_assert(order == Order::by_row, "pairs lie along the rows");
  constexpr int vecs = Vecs;
  __m512 c[Rows][vecs];  // bare registers: the compiler stores sums in structures in every round
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < vecs; ++v) c[r][v] = sums[r][v].v;
  for (std::int64_t d = 0; d < depth; d += 2) {
    __m512i b[vecs];
    for (int v = 0; v < vecs; ++v) {
      const std::uint16_t* at = panel + v / panel_vecs * next + d * panel_width + v % panel_vecs * lanes * 2;
      b[v] = _mm512_loadu_si512(at);
      if (Rows == tile_rows) prefetch(at + steps_ahead * panel_width * 2);
    }
    for (int r = 0; r < Rows; ++r) {
      const __m512i x =
          _mm512_castps_si512(_mm512_broadcastss_ps(_mm_load_ss(reinterpret_cast<const float*>(a + r * stride + d))));
      for (int v = 0; v < vecs; ++v) c[r][v] = _mm512_dpbf16_ps(c[r][v], (__m512bh)x, (__m512bh)b[v]);
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int v = 0; v < vecs; ++v) sums[r][v].v = c[r][v];
}
#endif

template <int Rows, int Vecs, Order order, class Element, class Ending>
static GENREC_INLINE void tile(const Element* a, std::int64_t stride, const Element* panel, std::int64_t next,
                               std::int64_t depth, std::int64_t row, std::int64_t column, Ending& ending) {
  Vec sums[Rows][Vecs];
  ending.template start<Rows, Vecs>(row, column, sums);
  multiply<Rows, Vecs, order>(a, stride, panel, next, depth, sums);
  ending.template finish<Rows, Vecs>(row, column, sums);
}

// Vectors of columns [first, last), counted over all panels; `first` begins a panel.
template <int Rows, int Panels, Order order, class Element, class Ending>
static inline void strip(const Element* a, std::int64_t stride, const Element* panels, std::int64_t next,
                         std::int64_t first, std::int64_t last, std::int64_t depth, std::int64_t row, Ending& ending) {
  std::int64_t v = first;
  for (; v + Panels * panel_vecs <= last; v += Panels * panel_vecs)
    tile<Rows, Panels * panel_vecs, order>(a, stride, panels + v / panel_vecs * next, next, depth, row, v * lanes,
                                           ending);
  if constexpr (Panels > 1)
    for (; v + panel_vecs <= last; v += panel_vecs)
      tile<Rows, panel_vecs, order>(a, stride, panels + v / panel_vecs * next, next, depth, row, v * lanes, ending);
  if constexpr (panel_vecs > 1)
    for (; v < last; ++v)
      tile<Rows, 1, order>(a, stride, panels + v / panel_vecs * next, next, depth, row, v * lanes, ending);
}

// Rows [0, num_rows) of a with vectors of columns [first, last), counted over the panels; `first` begins a panel, and
// `last` may lie within one. Panels lie `next` elements apart, at least depth * panel_width: a product over part of the
// depth begins inside them. The ending gets each tile twice:
//   start<Rows, Vecs>(row, column, sums)   fills the sums before the first product
//   finish<Rows, Vecs>(row, column, sums)  takes them; columns at and beyond num_columns are the caller's to ignore
// Row tails go in tiles of 4, 2 and 1 rows over several panels, so that the adders stay busy.
template <Order order, class Element, class Ending>
static inline void product_of_vectors(const Element* a, std::int64_t stride, std::int64_t num_rows,
                                      const Element* panels, std::int64_t next, std::int64_t first, std::int64_t last,
                                      std::int64_t depth, Ending& ending) {
  const std::int64_t step = order == Order::by_row ? stride : 1;
  std::int64_t row = 0;
  for (; row + tile_rows <= num_rows; row += tile_rows)
    strip<tile_rows, 1, order>(a + row * step, stride, panels, next, first, last, depth, row, ending);
#if GENREC_VEC > 0
  for (; row + 4 <= num_rows; row += 4)
    strip<4, 1, order>(a + row * step, stride, panels, next, first, last, depth, row, ending);
  for (; row + 2 <= num_rows; row += 2)
    strip<2, 2, order>(a + row * step, stride, panels, next, first, last, depth, row, ending);
#endif
  for (; row < num_rows; ++row)
    strip<1, GENREC_VEC ? 4 : 1, order>(a + row * step, stride, panels, next, first, last, depth, row, ending);
}

// The same for whole panels [first, last) over their whole depth.
template <class Element, class Ending>
static inline void product(const Element* a, std::int64_t stride, std::int64_t num_rows, const Element* panels,
                           std::int64_t first, std::int64_t last, std::int64_t depth, Ending& ending) {
  product_of_vectors<Order::by_row>(a, stride, num_rows, panels, depth * panel_width, first * panel_vecs,
                                    last * panel_vecs, depth, ending);
}

}  // namespace genrec::GENREC_ISA
