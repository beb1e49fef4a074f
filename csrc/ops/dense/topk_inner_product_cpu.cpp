#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "ops/dense/topk_inner_product.h"
#include "ops/rq/rq_search.h"

namespace genrec::GENREC_ISA {
namespace {

// A panel multiplies 16 or 32 queries whether they are there or not; fewer than this go one by one (1,000,000 x 64 and
// one query: 50 ms in panels, 13 ms with `sums_of`; 13 queries: as long either way).
constexpr std::int64_t few_queries = GENREC_VEC == 2 ? 13 : 3;
constexpr std::int64_t few_floats = 1 << 12;    // of the table, for few queries: 16 KiB
constexpr std::int64_t block_floats = 1 << 15;  // of the table: 128 KiB, read from memory once, then from cache
constexpr std::int64_t bytes_ahead = 4096;      // of a row that is met for the first time
constexpr std::int64_t chunk_floats = 1 << 16;  // of the packed queries: 256 KiB
constexpr float largest_sum = 1e38f;            // of squares: above, it may have overflowed

bool excluded(const TopkQuery& query, std::int64_t id) {
  std::int64_t low = 0, high = query.num_excluded;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (query.exclude[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < query.num_excluded && query.exclude[low] == id;
}

inline void offer(TopkScan& scan, std::int64_t number, std::int64_t id, float score) {
  TopkQuery& query = scan.queries[number];
  if (query.allowed && query.allowed[id] == 0) return;
  if (query.num_excluded != 0 && excluded(query, id)) return;
  query.entries[query.count++] = {score, static_cast<std::int32_t>(id)};
  if (query.count == scan.capacity) scan.compact(scan, number);
}

// Rows are items, columns are queries: a row's elements are broadcast, so the table needs no packing.
struct Offers {
  TopkScan& scan;
  std::int64_t first;  // item of row 0

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t row, std::int64_t, Vec (&sums)[Rows][Vecs]) {
    const float* bias = scan.args->bias;
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) sums[r][v] = fill(bias ? bias[first + row + r] : 0.0f);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int v = 0; v < Vecs; ++v) {
      const std::int64_t number = column + v * lanes;
      const std::int64_t there = scan.num_queries - number;
      if (there <= 0) return;
      const Mask real = there >= lanes ? 0xffffu : (Mask{1} << there) - 1;
      const Vec bar = load(scan.thresholds + number);
      Mask below = real;
      for (int r = 0; r < Rows; ++r) below &= at_least(bar, sums[r][v]);  // false for NaN on either side
      if (below == real) continue;
      take<Rows, Vecs>(row, number, v, real, sums);
    }
  }
  template <int Rows, int Vecs>
  void take(std::int64_t row, std::int64_t number, int v, Mask real, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r) {
      Mask found = ~at_least(load(scan.thresholds + number), sums[r][v]) & real;
      if (found == 0) continue;
      float line[lanes];
      store(line, sums[r][v]);
      for (; found != 0; found &= found - 1) {
        const int lane = lowest(found);
        offer(scan, number + lane, first + row + r, line[lane]);
      }
    }
  }
};

// Sum of the lanes of each of 16 vectors.
#if GENREC_VEC == 2
inline Vec four_sums(Vec a, Vec b, Vec c, Vec d) {  // a, b, c, d side by side, once for each quarter of the lanes
  const __m512 x = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 y = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  return {_mm512_add_ps(_mm512_shuffle_ps(x, y, 0x44), _mm512_shuffle_ps(x, y, 0xee))};
}
inline Vec sums_of(const Vec (&x)[lanes]) {
  Vec four[4];
  for (int i = 0; i < 4; ++i) four[i] = four_sums(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
  __m512 half[2];
  for (int i = 0; i < 2; ++i) {
    const __m512 p = four[2 * i].v, q = four[2 * i + 1].v;
    half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(p, q, 0x44), _mm512_shuffle_f32x4(p, q, 0xee));
  }
  return {_mm512_add_ps(_mm512_shuffle_f32x4(half[0], half[1], 0x88), _mm512_shuffle_f32x4(half[0], half[1], 0xdd))};
}
#else
inline Vec sums_of(const Vec (&x)[lanes]) {
  float line[lanes];
  for (int i = 0; i < lanes; ++i) line[i] = sum(x[i]);
  return load(line);
}
#endif

// What a pass over rows learns of their lengths, lane by lane.
struct Lengths {
  Vec most = fill(0.0f);  // the largest of the rows' partial sums of squares
  Vec all = fill(0.0f);   // their sum: what is not finite shows
};

// Products of 16 rows with a query; `lengths`, if there is any, takes in the rows.
template <bool measured>
GENREC_INLINE Vec products_of(const float* rows, const float* query, std::int64_t depth, Lengths& lengths) {
  // Rows read side by side. One stream, asked for ahead, is what memory gives fastest (200,000 x 384: 8.1 ms, two 13
  // ms); what is in cache since the first query is not waited for, so all sums are.
  constexpr int together = measured ? 1 : lanes;
  Vec parts[lanes];
  for (int first = 0; first < lanes; first += together) {
    Vec products[together], squares[together];
    for (int r = 0; r < together; ++r) products[r] = squares[r] = fill(0.0f);
    const float* own = rows + first * depth;
    const auto add = [&](std::int64_t d, auto get) {
      const Vec x = get(query + d);
      for (int r = 0; r < together; ++r) {
        if (measured) prefetch(reinterpret_cast<const char*>(own + r * depth + d) + bytes_ahead);
        const Vec row = get(own + r * depth + d);
        products[r] = multiply_add(row, x, products[r]);
        if (measured) squares[r] = multiply_add(row, row, squares[r]);
      }
    };
    std::int64_t d = 0;
    for (; d + lanes <= depth; d += lanes) add(d, [](const float* p) { return load(p); });
    if (d < depth) add(d, [&](const float* p) { return load_first(p, static_cast<int>(depth - d)); });
    for (int r = 0; r < together; ++r) {
      parts[first + r] = products[r];
      if (!measured) continue;
      lengths.most = greater(lengths.most, squares[r]);
      lengths.all = lengths.all + squares[r];
    }
  }
  return sums_of(parts);
}

// The first of rows [from, until) that is not finite, or -1.
std::int64_t first_wrong(const TopkScan& scan, std::int64_t from, std::int64_t until) {
  for (std::int64_t n = from; n < until; ++n)
    if (!finite(scan.args->table + n * scan.args->depth, scan.args->depth)) return n;
  return -1;
}

// Takes in that squared lengths of rows [from, until) are up to `squares` (a sum in float32, see length_above). False
// if that is no number because a row is not finite.
bool lengthen(TopkScan& scan, std::int64_t from, std::int64_t until, float squares) {
  if (!(squares < largest_sum)) {
    if (first_wrong(scan, from, until) >= 0) return false;
    squares = infinity;
  }
  const float length = length_above(squares, scan.args->depth);
  if (length > scan.longest) {
    scan.longest = length;
    scan.grown(scan);
  }
  return true;
}

// One query against 16 items at a time, or what is left. `measured`: the rows are met for the first time; `most` holds
// what `Lengths` had of those before. False if a row is not finite.
template <bool measured>
bool one_by_one(TopkScan& scan, std::int64_t number, std::int64_t from, std::int64_t until, Vec& most) {
  const TopkArgs& args = *scan.args;
  const std::int64_t depth = args.depth;
  const float* query = args.queries + (scan.first_query + number) * depth;
  std::int64_t n = from;
  for (; n + lanes <= until; n += lanes) {
    Lengths lengths;
    Vec scores = products_of<measured>(args.table + n * depth, query, depth, lengths);
    if (measured && (at_least(most, lengths.most) & at_least(fill(largest_sum), lengths.all)) != 0xffffu) {
      most = greater(most, lengths.most * fill(1.1f));  // a little more, so that few rows are longer
      const bool regular = at_least(fill(largest_sum), lengths.all) == 0xffffu;
      if (!lengthen(scan, n, n + lanes, regular ? sum(most) : infinity)) return false;
    }
    if (args.bias) scores = scores + load(args.bias + n);
    Mask found = ~at_least(fill(scan.thresholds[number]), scores) & 0xffffu;
    if (found == 0) continue;
    float line[lanes];
    store(line, scores);
    for (; found != 0; found &= found - 1) offer(scan, number, n + lowest(found), line[lowest(found)]);
  }
  for (; n < until; ++n) {
    const float* row = args.table + n * depth;
    if (measured && !lengthen(scan, n, n + 1, squares_of(row, depth))) return false;
    const float score = fast_dot(query, row, depth) + (args.bias ? args.bias[n] : 0.0f);
    if (!(scan.thresholds[number] >= score)) offer(scan, number, n, score);
  }
  return true;
}

// Not below the squared length of any of `count` rows (a sum in float32, see length_above); infinity where a row is not
// finite, or so long that squares overflow.
float most_squares(const float* rows, std::int64_t count, std::int64_t depth) {
  // Lane by lane the largest of the rows' partial sums: no sum across lanes per row.
  Vec most = fill(0.0f), all = fill(0.0f);
  float most_rest = 0.0f, all_rest = 0.0f;
  for (std::int64_t n = 0; n < count; ++n) {
    const float* row = rows + n * depth;
    Vec own = fill(0.0f);
    std::int64_t d = 0;
    for (; d + lanes <= depth; d += lanes) {
      const Vec x = load(row + d);
      own = multiply_add(x, x, own);
    }
    float rest = 0.0f;
    for (; d < depth; ++d) rest += row[d] * row[d];
    most = greater(most, own);
    all = all + own;
    most_rest = rest > most_rest ? rest : most_rest;
    all_rest += rest;
  }
  const float everything = sum(all) + all_rest;
  return everything < largest_sum ? sum(most) + most_rest : infinity;
}

}  // namespace

std::int64_t topk_panel_width() { return panel_width; }

// Queries [first, last) of one scan into panels.
void topk_pack(const float* queries, std::int64_t count, std::int64_t depth, float* panels) {
  pack(queries, depth, 0, count, depth, panels);
}

float topk_error_scale(std::int64_t depth) { return sum_error(depth); }

float topk_norm(const float* x, std::int64_t depth) { return length_above(squares_of(x, depth), depth); }

// The scores of `entries` as defined.
void topk_exact(const TopkArgs& args, const float* query, TopkEntry* entries, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = entries[i].id;
    double score = exact_dot(query, args.table + id * args.depth, args.depth);
    if (args.bias) score += static_cast<double>(args.bias[id]);
    entries[i].score = static_cast<float>(score);
  }
}

// Offers items [first, last) to all queries of the scan; a row that is not finite, or -1.
std::int64_t topk_scan(TopkScan& scan, std::int64_t first, std::int64_t last) {
  const TopkArgs& args = *scan.args;
  const std::int64_t depth = args.depth;
  const bool few = scan.num_queries < few_queries;
  const std::int64_t group = few ? lanes : tile_rows;
  // The rows of a block are met again by the next query; a single one needs no blocks.
  std::int64_t rows = scan.num_queries == 1 ? last - first : (few ? few_floats : block_floats) / depth / group * group;
  if (rows < group) rows = group;
  const std::int64_t panels = num_panels(scan.num_queries);
  std::int64_t chunk = chunk_floats / (depth * panel_width);
  if (chunk < 1) chunk = 1;
  Vec most = fill(0.0f);
  for (std::int64_t from = first; from < last; from += rows) {
    const std::int64_t until = from + rows < last ? from + rows : last;
    if (args.bias) {
      float bias = scan.largest_bias;
      for (std::int64_t n = from; n < until; ++n) {
        const float size = args.bias[n] < 0.0f ? -args.bias[n] : args.bias[n];
        if (size > bias) bias = size;
      }
      if (bias > scan.largest_bias) {
        scan.largest_bias = bias;
        scan.grown(scan);
      }
    }
    if (few) {
      if (!one_by_one<true>(scan, 0, from, until, most)) return first_wrong(scan, from, until);
      for (std::int64_t q = 1; q < scan.num_queries; ++q) one_by_one<false>(scan, q, from, until, most);
      continue;
    }
    if (!lengthen(scan, from, until, most_squares(args.table + from * depth, until - from, depth)))
      return first_wrong(scan, from, until);
    Offers ending{scan, from};
    for (std::int64_t p = 0; p < panels; p += chunk)
      product(args.table + from * depth, depth, until - from, scan.panels, p, p + chunk < panels ? p + chunk : panels,
              depth, ending);
  }
  return -1;
}

}  // namespace genrec::GENREC_ISA
