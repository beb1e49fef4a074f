// How the nearest code of a row is found and proven, for all files that need it. Included by per-ISA files alone.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "ops/rq/rq_encode.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr float infinity = __builtin_inff();
constexpr int most = 48;  // codes kept in a shortlist; beyond them the whole level is scored again

// The codes that can still win: scores within `slack` of the best, ascending codes.
struct Shortlist {
  float best = -infinity, slack = 0;
  int count = 0;
  bool overflowed = false;
  std::int32_t codes[most];
  float scores[most];

  void reset(float new_slack) {
    best = -infinity;
    slack = new_slack;
    count = 0;
    overflowed = false;
  }
  void add(std::int32_t code, float score) {
    if (score > best) best = score;
    if (count == most) drop();
    if (count == most) {
      overflowed = true;
      return;
    }
    codes[count] = code;
    scores[count++] = score;
  }
  void drop() {
    int kept = 0;
    for (int i = 0; i < count; ++i)
      if (scores[i] >= best - slack) {
        codes[kept] = codes[i];
        scores[kept++] = scores[i];
      }
    count = kept;
  }
};

inline double lane_sum(const double (&lane)[lanes]) {
  double half[lanes];
  for (int i = 0; i < lanes; ++i) half[i] = lane[i];
  for (int width = lanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) half[i] += half[i + width];
  return half[0];
}

// sum a b as defined: float64 products (exact) in 16 running lanes.
inline double exact_dot(const float* a, const float* b, std::int64_t depth) {
  double lane[lanes] = {};
  std::int64_t d = 0;
  for (; d + lanes <= depth; d += lanes)
    for (int i = 0; i < lanes; ++i) lane[i] += static_cast<double>(a[d + i]) * static_cast<double>(b[d + i]);
  for (int i = 0; d + i < depth; ++i) lane[i] += static_cast<double>(a[d + i]) * static_cast<double>(b[d + i]);
  return lane_sum(lane);
}

inline float fast_dot(const float* a, const float* b, std::int64_t depth) {
  Vec first = fill(0.0f), second = fill(0.0f);
  std::int64_t d = 0;
  for (; d + 2 * lanes <= depth; d += 2 * lanes) {
    first = multiply_add(load(a + d), load(b + d), first);
    second = multiply_add(load(a + d + lanes), load(b + d + lanes), second);
  }
  float total = sum(first + second);
  for (; d < depth; ++d) total += a[d] * b[d];
  return total;
}

// Not below the Euclidean length of float32 numbers whose squares sum to `squares` in float32, in any order.
inline float length_above(float squares, std::int64_t depth) {
  const float count = static_cast<float>(depth);
  // The first term bounds the rounding of the sum, the second the squares that underflowed.
  return std::sqrt(squares) * (1.0f + 1e-3f + 2e-7f * count) + 1.1e-19f * std::sqrt(count);
}

struct Row {
  float norm;    // |r|, not below
  float spread;  // |r - centre|, not below
  bool regular;  // small enough that no product overflows
};

inline bool finite(const float* x, std::int64_t depth) {
  std::uint32_t wrong = 0;
  for (std::int64_t d = 0; d < depth; ++d) wrong |= (bits_of(x[d]) & 0x7f800000u) == 0x7f800000u ? 1u : 0u;
  return wrong == 0;
}

// Row i of x as float32; false where it holds NaN or infinity.
inline bool take_row(const RqEncodeArgs& args, std::int64_t i, float* out) {
  const std::int64_t depth = args.depth;
  std::int64_t d = 0;
  if (args.element == RqElement::float32) {
    const float* x = static_cast<const float*>(args.x) + i * depth;
    for (; d + lanes <= depth; d += lanes) store(out + d, load(x + d));
    for (; d < depth; ++d) out[d] = x[d];
  } else {
    const std::uint16_t* x = static_cast<const std::uint16_t*>(args.x) + i * depth;
    const bool half = args.element == RqElement::float16;
    for (; d + lanes <= depth; d += lanes) store(out + d, half ? load_half(x + d) : load_bfloat16(x + d));
    for (; d < depth; ++d) out[d] = half ? float_of_half(x[d]) : float_of(static_cast<std::uint32_t>(x[d]) << 16);
  }
  return finite(out, depth);
}

inline float squares_of(const float* r, std::int64_t depth) { return fast_dot(r, r, depth); }

// r -= c; the new sum of squares.
inline float subtract(float* r, const float* c, std::int64_t depth) {
  Vec total = fill(0.0f);
  std::int64_t d = 0;
  for (; d + lanes <= depth; d += lanes) {
    const Vec rest = load(r + d) - load(c + d);
    store(r + d, rest);
    total = multiply_add(rest, rest, total);
  }
  float squares = sum(total);
  for (; d < depth; ++d) {
    r[d] -= c[d];
    squares += r[d] * r[d];
  }
  return squares;
}

// A tile's sums start at -|c|^2 / 2, are stored for the search, and leave each row's largest behind.
struct Scores {
  const float* starts;  // of all columns
  float* out;           // [tile_rows, chunk], column `first` leftmost
  std::int64_t chunk, first;
  Vec largest[tile_rows];

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int v = 0; v < Vecs; ++v) {
      const Vec s = load(starts + column + v * lanes);
      for (int r = 0; r < Rows; ++r) sums[r][v] = s;
    }
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r) {
      float* here = out + (row + r) * chunk + (column - first);
      Vec top = largest[row + r];
      for (int v = 0; v < Vecs; ++v) {
        store(here + v * lanes, sums[r][v]);
        top = greater(top, sums[r][v]);
      }
      largest[row + r] = top;
    }
  }
};

// Adds what a chunk of scores offers: everything not below the best so far less the slack.
inline void search(const float* scores, std::int64_t columns, std::int64_t first, float largest, Shortlist& list) {
  if (largest > list.best) list.best = largest;
  const float least = list.best - list.slack;
  if (!(largest >= least)) return;
  const Vec bar = fill(least);
  for (std::int64_t j = 0; j < columns; j += panel_width) {
    std::uint64_t found = 0;
    for (int v = 0; v < panel_vecs; ++v)
      found |= static_cast<std::uint64_t>(at_least(load(scores + j + v * lanes), bar)) << (v * lanes);
    for (; found != 0; found &= found - 1) {
      const auto low = static_cast<std::uint32_t>(found);
      const std::int64_t column = j + (low != 0 ? lowest(low) : 32 + lowest(static_cast<Mask>(found >> 32)));
      list.add(static_cast<std::int32_t>(first + column), scores[column]);
    }
  }
}

// The winner as defined: among the shortlist's codes, or among all.
inline std::int32_t exact_winner(const RqLevel& level, const float* r, std::int64_t depth, const Shortlist* list) {
  std::int32_t winner = 0;
  double best = __builtin_inf();
  const std::int64_t count = list ? list->count : level.num_codes;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t code = list ? list->codes[i] : static_cast<std::int32_t>(i);
    if (level.starts[code] == -infinity) continue;  // equals a lower code
    const double score = level.half_norms[code] - exact_dot(r, level.codebook + code * depth, depth);
    if (score < best) {
      best = score;
      winner = code;
    }
  }
  return winner;
}

// Twice the largest error of a float32 score of a residual and codes of at most these lengths.
inline float slack32(float residual, float code, std::int64_t depth) {
  const float tiny = 1.2e-38f * static_cast<float>(depth) * (1.0f + code + residual);  // subnormals may be lost
  return 2.02f * (sum_error(depth) * (residual * code + code * code) + tiny);
}

// Twice the largest error of a score as defined, which float64 rounds, too: it counts where what a centre took away is
// long against the rest.
inline float slack64(float residual, float code, std::int64_t depth) {
  return 2.02f * static_cast<float>(depth + 16) * 0x1p-53f * (residual * code + code * code);
}

// The winner from what the products left: `list` holds all codes that can win (null: nobody looked yet).
inline std::int32_t resolve(const RqLevel& level, const float* r, std::int64_t depth, const Row& row,
                            const Shortlist* list, bool coarse) {
  if (!row.regular) return exact_winner(level, r, depth, nullptr);
  if (list && !list->overflowed) {
    if (list->count == 1) return list->codes[0];
    if (!coarse) return exact_winner(level, r, depth, list);
  }
  Shortlist fine;
  fine.slack = slack32(row.norm, level.norm, depth);
  const bool some = list && !list->overflowed;
  const std::int64_t count = some ? list->count : level.num_codes;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t code = some ? list->codes[i] : static_cast<std::int32_t>(i);
    if (level.starts[code] == -infinity) continue;
    const float score = fast_dot(r, level.codebook + code * depth, depth) - static_cast<float>(level.half_norms[code]);
    if (score >= fine.best - fine.slack) fine.add(code, score);
  }
  fine.drop();
  if (fine.count == 1 && !fine.overflowed) return fine.codes[0];
  return exact_winner(level, r, depth, fine.overflowed ? nullptr : &fine);
}

// Finds each row's codes that can win: rows [0, count) of a block against the level's panels, a chunk of them at a
// time, so that a chunk comes from the second cache for all tiles but the first.
template <class Element>
void shortlist(const RqLevel& level, const Element* rows, std::int64_t stride, const Element* panels, int count,
               float* scores, std::int64_t chunk, const Row* row, Shortlist* lists) {
  const std::int64_t columns = num_panels(level.num_codes) * panel_width;
  for (std::int64_t first = 0; first < columns; first += chunk) {
    const std::int64_t last = first + chunk < columns ? first + chunk : columns;
    for (int tile = 0; tile < count; tile += tile_rows) {
      const int here = count - tile < tile_rows ? count - tile : tile_rows;
      Scores ending{level.starts, scores, chunk, first, {}};
      for (int r = 0; r < here; ++r) ending.largest[r] = fill(-infinity);
      product(rows + tile * stride, stride, here, panels, first / panel_width, last / panel_width, stride, ending);
      for (int r = 0; r < here; ++r)
        if (row[tile + r].regular)
          search(scores + r * chunk, last - first, first, maximum(ending.largest[r]), lists[tile + r]);
    }
  }
  for (int r = 0; r < count; ++r) lists[r].drop();
}

}  // namespace
}  // namespace genrec::GENREC_ISA
