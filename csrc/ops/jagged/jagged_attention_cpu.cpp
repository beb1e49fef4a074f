// The forward body of jagged_attention, compiled once per instruction set; ops/reference/jagged_attention.py is the
// specification. A tile of queries is multiplied with all keys it can see, its scores become weights line by line, and
// the weights are multiplied with the values: whole lines of a few queries, so no running maximum has to be mended.
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "ops/jagged/attention_rows.h"
#include "ops/jagged/jagged_attention.h"

namespace genrec::GENREC_ISA {
namespace {

// Sums of a tile of queries -> out, each query's by its own factor.
template <class Element>
struct Output {
  Element* out;  // of the tile's first query
  std::int64_t stride, num_columns;
  const float* factors;  // per query

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) sums[r][v] = fill(0.0f);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) {
        const std::int64_t first = column + v * lanes;
        const Vec x = sums[r][v] * fill(factors[row + r]);
        write(out + (row + r) * stride + first, x, num_columns - first);
      }
  }

  static GENREC_INLINE void write(float* to, const Vec& x, std::int64_t room) {
    if (room >= lanes) return store(to, x);
    float line[lanes];
    store(line, x);
    for (int i = 0; i < room; ++i) to[i] = line[i];
  }
#if GENREC_BF16
  static GENREC_INLINE void write(std::uint16_t* to, const Vec& x, std::int64_t room) {
    if (room >= lanes) return store_bfloat16(to, x);
    std::uint16_t line[lanes];
    store_bfloat16(line, x);
    for (int i = 0; i < room; ++i) to[i] = line[i];
  }
#endif
};

struct Tile {
  std::int64_t first, count;  // queries, within their row
  std::int64_t from, until;   // columns that any of them sees, counted from `begin`
};

template <class Element>
class Head {
 public:
  Head(const AttentionPlan& plan, const AttentionTask& task, std::int64_t head, std::int64_t begin, std::int64_t end,
       std::int64_t num_buckets, const AttentionScratch& scratch, void* out, float* log_sums)
      : plan_(plan),
        num_buckets_(num_buckets),
        args_(plan.args),
        task_(task),
        head_(head),
        begin_(begin),
        count_(end - begin),
        padded_(sizeof(Element) == 4 ? count_ : (count_ + 1) / 2 * 2),
        scratch_(scratch),
        first_query_(args_.offsets[task.row]),
        first_key_(args_.kv_offsets[task.row]),
        position_(args_.kv_offsets[task.row + 1] - first_key_ - (args_.offsets[task.row + 1] - first_query_)),
        out_(static_cast<Element*>(out)),
        log_sums_(log_sums) {
    const std::int64_t key = first_key_ + begin;
    const Element* k = static_cast<const Element*>(args_.k) + key * args_.k_stride + head * args_.width;
    const Element* v = static_cast<const Element*>(args_.v) + key * args_.v_stride + head * args_.value_width;
    pack_keys(k, static_cast<Element*>(scratch.keys));
    pack_values(v, static_cast<Element*>(scratch.values));
  }

  void run(const Tile& tile) {
    const std::int64_t stride = args_.num_heads * args_.value_width;
    Element* out = out_ + (first_query_ + tile.first) * stride + head_ * args_.value_width;
    float factors[lanes], highest[lanes], log_sums[lanes];  // of the tile's queries
    if (tile.until <= tile.from) {
      for (std::int64_t r = 0; r < tile.count; ++r) {
        for (std::int64_t c = 0; c < args_.value_width; ++c) out[r * stride + c] = 0;
        if (args_.softmax) log_sums_[(first_query_ + tile.first + r) * args_.num_heads + head_] = negative_infinity;
      }
      return;
    }
    score(tile);
    const std::int64_t from = tile.from / lanes * lanes, until = (tile.until + lanes - 1) / lanes * lanes;
    for (std::int64_t r = 0; r < tile.count; ++r) {
      const std::int64_t query = tile.first + r;
      float* line = scratch_.weights + r * scratch_.line;
      Element* weights = this->weights() + r * scratch_.line;
      const AttentionSeen& seen = scratch_.seen[query - task_.first];
      const std::uint16_t* buckets = scratch_.buckets + (query - task_.first) * scratch_.line;
      const LineBias bias(plan_, head_, query, position_ + query, first_query_, first_key_, begin_, buckets,
                          num_buckets_);
      if (args_.softmax)
        factors[r] = softmax_line(line, weights, from, until, begin_, seen, args_.alpha, bias, highest + r);
      else
        silu_line(line, weights, from, until, begin_, seen, args_.alpha, bias);
    }
    if (args_.softmax) {
      for (std::int64_t r = tile.count; r < lanes; ++r) factors[r] = 1.0f;
      log_of(factors, log_sums);
    }
    for (std::int64_t r = 0; r < tile.count; ++r) {
      if (args_.softmax) {
        const bool none = factors[r] == 0.0f;
        log_sums_[(first_query_ + tile.first + r) * args_.num_heads + head_] =
            none ? negative_infinity : highest[r] + log_sums[r];
        factors[r] = none ? 0.0f : plan_.kept_scale / factors[r];
      } else {
        factors[r] = plan_.scale * plan_.kept_scale;
      }
    }
    Output<Element> ending{out, stride, args_.value_width, factors};
    combine(tile, ending);
  }

 private:
  void pack_keys(const float* k, float* panels) { pack(k, args_.k_stride, 0, count_, args_.width, panels); }
  void pack_keys(const std::uint16_t* k, std::uint16_t* panels) {  // pairs of bfloat16 move as one word
    pack(reinterpret_cast<const float*>(k), args_.k_stride / 2, 0, count_, args_.width / 2,
         reinterpret_cast<float*>(panels));
  }
  template <class E>
  void pack_values(const E* v, E* panels) {
    pack_rows(v, args_.v_stride, count_, padded_, args_.value_width, panels);
  }

  void score(const Tile& tile) {
    const std::int64_t first = tile.from / panel_width * panel_vecs, last = num_vectors(tile.until);
    Keep ending{scratch_.weights, scratch_.line};
    const Element* q = static_cast<const Element*>(args_.q) + (first_query_ + tile.first) * args_.q_stride;
    product_of_vectors<Order::by_row>(q + head_ * args_.width, args_.q_stride, tile.count,
                                      static_cast<const Element*>(scratch_.keys), args_.width * panel_width, first,
                                      last, args_.width, ending);
  }

  Element* weights() const {
    if constexpr (sizeof(Element) == 4)
      return scratch_.weights;
    else
      return scratch_.rounded;
  }

  // Weights with values, over the keys that the tile sees; bfloat16 goes in pairs.
  void combine(const Tile& tile, Output<Element>& ending) {
    constexpr std::int64_t group = sizeof(Element) == 4 ? 1 : 2;
    const std::int64_t first = tile.from / group * group, last = (tile.until + group - 1) / group * group;
    product_of_vectors<Order::by_row>(weights() + first, scratch_.line, tile.count,
                                      static_cast<const Element*>(scratch_.values) + first * panel_width,
                                      padded_ * panel_width, 0, num_vectors(args_.value_width), last - first, ending);
  }

  const AttentionPlan& plan_;
  std::int64_t num_buckets_;
  const AttentionArgs& args_;
  const AttentionTask& task_;
  std::int64_t head_, begin_, count_;
  std::int64_t padded_;  // rows of values: bfloat16 goes in pairs
  const AttentionScratch& scratch_;
  std::int64_t first_query_, first_key_;
  std::int64_t position_;  // of the row's first query
  Element* out_;
  float* log_sums_;
};

template <class Element>
void run(const AttentionPlan& plan, const AttentionTask& task, const AttentionScratch& scratch, void* out,
         float* log_sums) {
  const AttentionArgs& args = plan.args;
  const SeenRule rule(args, task.row);
  const std::int64_t num_queries = args.offsets[task.row + 1] - args.offsets[task.row];
  std::int64_t begin = rule.num_keys, end = 0;
  for (std::int64_t i = task.first; i < task.last; ++i) {
    const AttentionSeen seen = rule.seen(rule.num_keys - num_queries + i);
    scratch.seen[i - task.first] = seen;
    if (seen_until(seen) <= seen_from(seen)) continue;
    begin = seen_from(seen) < begin ? seen_from(seen) : begin;
    end = seen_until(seen) > end ? seen_until(seen) : end;
  }
  if (end <= begin) begin = end = 0;
  const std::int64_t num_buckets =
      args.time ? fill_buckets(args, task.row, task.first, task.last, begin, end, scratch) : 0;
  for (std::int64_t head = task.head; head < task.last_head; ++head) {
    Head<Element> work(plan, task, head, begin, end, num_buckets, scratch, out, log_sums);
    for (std::int64_t first = task.first; first < task.last; first += tile_rows) {
      Tile tile{first, task.last - first < tile_rows ? task.last - first : tile_rows, end - begin, 0};
      for (std::int64_t i = first; i < first + tile.count; ++i) {
        const AttentionSeen& seen = scratch.seen[i - task.first];
        if (seen_until(seen) <= seen_from(seen)) continue;
        tile.from = seen_from(seen) - begin < tile.from ? seen_from(seen) - begin : tile.from;
        tile.until = seen_until(seen) - begin > tile.until ? seen_until(seen) - begin : tile.until;
      }
      work.run(tile);
    }
  }
}

}  // namespace

AttentionSizes attention_sizes() { return {panel_width, tile_rows, GENREC_BF16 != 0}; }

void attention_forward(const AttentionPlan& plan, const AttentionTask& task, const AttentionScratch& scratch, void* out,
                       float* log_sums) {
#if GENREC_BF16
  if (plan.args.element_size == 2) return run<std::uint16_t>(plan, task, scratch, out, log_sums);
#endif
  run<float>(plan, task, scratch, out, log_sums);
}

}  // namespace genrec::GENREC_ISA
