#include "ops/rq/rq_beams.h"
#include "ops/rq/rq_search.h"

namespace genrec::GENREC_ISA {
namespace {

// Stores what comes out of the product of a tile, nothing more.
struct Store {
  const float* starts;  // null: sums start at 0
  float* out;           // column `first` leftmost
  std::int64_t stride, first;

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int v = 0; v < Vecs; ++v) {
      const Vec s = starts ? load(starts + column + v * lanes) : fill(0.0f);
      for (int r = 0; r < Rows; ++r) sums[r][v] = s;
    }
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) store(out + (row + r) * stride + column - first + v * lanes, sums[r][v]);
  }
};

// A heap whose first of `count` comes behind all others; `before` says of two which is better.
template <class T, class Before>
void sink(T* heap, std::int64_t count, T one, Before before) {
  std::int64_t at = 0;
  for (std::int64_t below; (below = 2 * at + 1) < count; at = below) {
    if (below + 1 < count && before(heap[below], heap[below + 1])) ++below;
    if (!before(one, heap[below])) break;
    heap[at] = heap[below];
  }
  heap[at] = one;
}
template <class T, class Before>
void rise(T* heap, std::int64_t at, T one, Before before) {
  for (; at > 0 && before(heap[(at - 1) / 2], one); at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
  heap[at] = one;
}

bool higher(float a, float b) { return a > b; }

constexpr std::int64_t few = 64;  // scores of which a list in order is faster than a heap

// Who may belong to the `keep` best of a row: scores not below the keep-th best so far less the slack.
struct Contest {
  float* top;  // descending, where few are kept; else a heap, the lowest first
  RqCandidate* candidates;
  std::int64_t count, capacity, keep, found;
  float slack, bar;
  bool overflowed;

  void add(float score, std::int32_t beam, std::int32_t code) {
    if (keep <= few) {
      if (found < keep || score > top[keep - 1]) {
        std::int64_t i = found < keep ? found++ : keep - 1;
        for (; i > 0 && top[i - 1] < score; --i) top[i] = top[i - 1];
        top[i] = score;
        if (found == keep) bar = top[keep - 1] - slack;
      }
    } else if (found < keep) {
      rise(top, found++, score, higher);
      if (found == keep) bar = top[0] - slack;
    } else if (score > top[0]) {
      sink(top, keep, score, higher);
      bar = top[0] - slack;
    }
    if (count == capacity) drop();
    if (count == capacity)
      overflowed = true;
    else
      candidates[count++] = {0, score, beam, code};
  }
  void drop() {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < count; ++i)
      if (candidates[i].score >= bar) candidates[kept++] = candidates[i];
    count = kept;
  }
};

// One row at one level: what its beams are made of.
struct BeamRow {
  const float* x;
  const RqLevel* levels;
  const std::int32_t* codes;  // [beams, num_levels]
  std::int64_t depth, num_levels;
  int level;
  std::int64_t beams;
  float* residuals;  // [beams, depth], their |r|^2 / 2, and which of them are there
  double* own;
  std::uint8_t* made;

  // The residual as defined: x less one code after the other, in float32.
  void make(std::int64_t beam, float* out) const {
    for (std::int64_t d = 0; d < depth; ++d) out[d] = x[d];
    for (int l = 0; l < level; ++l) {
      const float* c = levels[l].codebook + codes[beam * num_levels + l] * depth;
      for (std::int64_t d = 0; d < depth; ++d) out[d] -= c[d];
    }
  }
  double exact(std::int32_t beam, std::int32_t code) const {
    float* residual = residuals + beam * depth;
    if (!made[beam]) {
      make(beam, residual);
      own[beam] = exact_dot(residual, residual, depth) * 0.5;
      made[beam] = 1;
    }
    const RqLevel& here = levels[level];
    return own[beam] + (here.half_norms[code] - exact_dot(residual, here.codebook + code * depth, depth));
  }
};

bool defined_before(const RqCandidate& a, const RqCandidate& b) {
  if (a.exact != b.exact) return a.exact < b.exact;
  return a.beam != b.beam ? a.beam < b.beam : a.code < b.code;
}
bool likely_before(const RqCandidate& a, const RqCandidate& b) { return a.score > b.score; }

template <class Before>
void sort(RqCandidate* list, std::int64_t count, Before before) {
  // Ciura's, and beyond them 9/4 of the one before.
  constexpr int gaps[] = {202001, 89778, 39901, 17734, 7882, 3503, 1577, 701, 301, 132, 57, 23, 10, 4, 1};
  for (const std::int64_t gap : gaps)
    for (std::int64_t i = gap; i < count; ++i) {
      const RqCandidate one = list[i];
      std::int64_t j = i;
      for (; j >= gap && before(one, list[j - gap]); j -= gap) list[j] = list[j - gap];
      list[j] = one;
    }
}

// The contest's candidates in the order as defined, as far as the `keep` first go.
void settle(Contest& contest, const BeamRow& row) {
  contest.drop();
  RqCandidate* list = contest.candidates;
  sort(list, contest.count, likely_before);
  for (std::int64_t i = 0; i < contest.keep && i < contest.count;) {
    std::int64_t end = i + 1;
    while (end < contest.count && !(list[end - 1].score - list[end].score > contest.slack)) ++end;
    if (end - i > 1) {
      for (std::int64_t j = i; j < end; ++j) list[j].exact = row.exact(list[j].beam, list[j].code);
      sort(list + i, end - i, defined_before);
    }
    i = end;
  }
}

// The same where fast scores prove nothing: all pairs as defined.
void settle_all(Contest& contest, const BeamRow& row) {
  contest.count = 0;
  for (std::int32_t b = 0; b < row.beams; ++b)
    for (std::int64_t k = 0; k < row.levels[row.level].num_codes; ++k) {
      const std::int32_t code = static_cast<std::int32_t>(k);
      const double exact = row.exact(b, code);
      const RqCandidate one{exact, static_cast<float>(-exact), b, code};
      if (contest.count < contest.keep)
        rise(contest.candidates, contest.count++, one, defined_before);
      else if (defined_before(one, contest.candidates[0]))
        sink(contest.candidates, contest.count, one, defined_before);
    }
  sort(contest.candidates, contest.count, defined_before);
}

// Columns [first, last) of one beam enter the contest: scores of x (less the tabled products of its codes), or of r.
void enter(Contest& contest, const float* scores, const float* const* products, int num_products, float less,
           std::int64_t first, std::int64_t last, std::int64_t num_codes, std::int32_t beam) {
  const Vec mine = fill(less);
  float line[lanes];
  for (std::int64_t k = first; k < last; k += lanes) {
    Vec score = load(scores + k - first) + mine;
    for (int j = 0; j < num_products; ++j) score = score - load(products[j] + k);
    Mask found = at_least(score, fill(contest.bar));
    if (found == 0) continue;
    store(line, score);
    for (; found != 0; found &= found - 1) {
      const std::int64_t code = k + lowest(found);
      if (code < num_codes && line[code - k] >= contest.bar)
        contest.add(line[code - k], beam, static_cast<std::int32_t>(code));
    }
  }
}

}  // namespace

// products[i][k] = first[i] second[k] for codes [from, until) of the first level and all columns of the second.
void rq_table(const RqLevel& first, const RqLevel& second, std::int64_t depth, std::int64_t from, std::int64_t until,
              float* products) {
  const std::int64_t panels = num_panels(second.num_codes), columns = panels * panel_width;
  Store ending{nullptr, products + from * columns, columns, 0};
  product(first.codebook + from * depth, depth, until - from, second.panels, 0, panels, depth, ending);
}

// Codes of rows [first, last) of x, one block.
RqFault rq_beam_rows(const RqEncodeArgs& args, const RqLevel* levels, const RqTables& tables, std::int64_t first,
                     std::int64_t last, const RqBeamScratch& scratch) {
  const std::int64_t depth = args.depth, width = args.num_beams, num_levels = args.num_levels;
  const bool tabled = tables.products != nullptr;
  const int rows = static_cast<int>(last - first);
  float length[rq_block_rows], error[rq_block_rows] = {};  // of x, not below; of the beams' scores
  bool regular[rq_block_rows];
  std::int64_t beams = 1;  // of every row
  Contest contests[rq_block_rows];
  for (int r = 0; r < rows; ++r) {
    float* x = scratch.x + r * depth;
    if (!take_row(args, first + r, x)) return {first + r, -1};
    length[r] = length_above(squares_of(x, depth), depth);
    regular[r] = true;
    scratch.beam_scores[0][r * width] = -0.5f * squares_of(x, depth);
  }
  float behind = 0;  // length of one code of every level so far, at most
  for (int l = 0; l < num_levels; ++l) {
    const RqLevel& level = levels[l];
    const std::int64_t columns = num_panels(level.num_codes) * panel_width;
    const std::int32_t* codes = scratch.codes[l % 2];
    const float* beam_scores = scratch.beam_scores[l % 2];
    const std::int64_t all = beams * level.num_codes, keep = width < all ? width : all;
    BeamRow row{nullptr, levels, nullptr, depth, num_levels, l, beams, scratch.residual, scratch.own, scratch.made};
    for (int r = 0; r < rows; ++r) {
      // To the beams' own error come: that of the products with this level's codes (x or r, and l codes), and that of
      // the additions and of the float32 residuals, which are not quite x less the codes.
      const float reach = length[r] + behind, size = reach + level.norm;
      error[r] += sum_error(depth) * level.norm * size + static_cast<float>(l + 4) * 0x1p-22f * size * size +
                  1.2e-38f * static_cast<float>(depth * (l + 1)) * (1.0f + size);
      regular[r] = regular[r] && size < 1e18f;
      contests[r] = {scratch.top + r * width,
                     scratch.candidates + r * scratch.capacity,
                     0,
                     scratch.capacity,
                     width < all ? width : all,
                     0,
                     2.02f * error[r],
                     -infinity,
                     false};
    }
    if (!tabled)
      for (int r = 0; r < rows; ++r) {
        row.x = scratch.x + r * depth;
        row.codes = codes + r * width * num_levels;
        for (std::int64_t b = 0; b < beams; ++b) row.make(b, scratch.residual + (r * beams + b) * depth);
      }
    for (std::int64_t from = 0; from < columns; from += scratch.chunk) {
      const std::int64_t until = from + scratch.chunk < columns ? from + scratch.chunk : columns;
      Store ending{level.starts, scratch.scores, scratch.chunk, from};
      product(tabled ? scratch.x : scratch.residual, depth, tabled ? rows : rows * beams, level.panels,
              from / panel_width, until / panel_width, depth, ending);
      for (int r = 0; r < rows; ++r)
        for (std::int64_t b = 0; regular[r] && b < beams && !contests[r].overflowed; ++b) {
          const float* scores = scratch.scores + (tabled ? r : r * beams + b) * scratch.chunk;
          const float* products[rq_most_tabled];
          for (int j = 0; tabled && j < l; ++j)
            products[j] =
                tables.products[j * num_levels + l] + codes[(r * width + b) * num_levels + j] * tables.columns[l];
          enter(contests[r], scores, products, tabled ? l : 0, beam_scores[r * width + b], from, until, level.num_codes,
                static_cast<std::int32_t>(b));
        }
    }
    std::int32_t* new_codes = scratch.codes[(l + 1) % 2];
    float* new_scores = scratch.beam_scores[(l + 1) % 2];
    for (int r = 0; r < rows; ++r) {
      row.x = scratch.x + r * depth;
      row.codes = codes + r * width * num_levels;
      if (!tabled) row.residuals = scratch.residual + r * beams * depth;
      for (std::int64_t b = 0; b < beams; ++b) scratch.made[b] = 0;
      Contest& contest = contests[r];
      if (regular[r] && !contest.overflowed)
        settle(contest, row);
      else
        settle_all(contest, row);
      for (std::int64_t b = 0; b < keep; ++b) {
        const RqCandidate& one = contest.candidates[b];
        std::int32_t* out = new_codes + (r * width + b) * num_levels;
        for (int j = 0; j < l; ++j) out[j] = row.codes[one.beam * num_levels + j];
        out[l] = one.code;
        new_scores[r * width + b] = one.score;
        if (regular[r] || l + 1 == num_levels) continue;
        float* rest = row.residuals;  // the beams are settled: their place is free
        row.make(one.beam, rest);
        subtract(rest, level.codebook + one.code * depth, depth);
        if (!finite(rest, depth)) return {first + r, l};
      }
    }
    beams = keep;
    behind += level.norm;
  }
  for (int r = 0; r < rows; ++r)
    for (std::int64_t l = 0; l < num_levels; ++l)
      args.codes[(first + r) * num_levels + l] = scratch.codes[num_levels % 2][r * width * num_levels + l];
  return {-1, -1};
}

}  // namespace genrec::GENREC_ISA
