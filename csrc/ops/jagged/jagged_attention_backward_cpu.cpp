// The backward body of jagged_attention, compiled once per instruction set. A block of keys stays in the second cache
// while all queries that see it pass by, a block at a time: their scores and the slopes of their weights are made again
// (two products), and three more add to the gradients of queries, keys and values.
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "ops/jagged/attention_rows.h"
#include "ops/jagged/jagged_attention.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr Mask all_lanes = 0xffffu;
constexpr std::int64_t key_block = attention_key_block, query_block = attention_query_block;
constexpr std::int64_t tiles_of_block = query_block / tile_rows;
static_assert(query_block % tile_rows == 0);

// An ending that adds factor times the sums to out[row * stride + column], columns below num_columns.
struct Add {
  float* out;
  std::int64_t stride, num_columns;
  float factor;

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) sums[r][v] = fill(0.0f);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    const Vec f = fill(factor);
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) {
        const std::int64_t first = column + v * lanes;
        float* to = out + (row + r) * stride + first;
        if (first + lanes <= num_columns) {
          store(to, multiply_add(sums[r][v], f, load(to)));
        } else if (first < num_columns) {
          float part[lanes];
          store(part, sums[r][v] * f);
          for (int i = 0; first + i < num_columns; ++i) to[i] += part[i];
        }
      }
  }
};

void clear(float* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = 0.0f;
}

// Products of a line and slopes of its weights -> weights (as the values are multiplied with them, but for `factor`)
// and slopes of the scores.
struct SiluSlopes {
  float *line, *slopes;
  Vec alpha, factor;
  const LineBias& bias;

  GENREC_INLINE void keep(std::int64_t c, Mask mask) const {
    const Vec x = bias.score(line, c, alpha), s = sigmoid(x), weight = x * s;
    const Vec slope = load(slopes + c) * factor * multiply_add(weight, fill(1.0f) - s, s);
    put(c, mask, bias.drop(weight, c), bias.drop(slope, c));
  }
  GENREC_INLINE void put(std::int64_t c, Mask mask, const Vec& weight, const Vec& slope) const {
    store(line + c, mask == all_lanes ? weight : choose(mask, weight, fill(0.0f)));
    store(slopes + c, mask == all_lanes ? slope : choose(mask, slope, fill(0.0f)));
  }
  GENREC_INLINE void all(std::int64_t c) const { keep(c, all_lanes); }
  GENREC_INLINE void some(std::int64_t c, Mask mask) const { keep(c, mask); }
  GENREC_INLINE void none(std::int64_t c) const { put(c, all_lanes, fill(0.0f), fill(0.0f)); }
};

struct SoftmaxSlopes {
  SiluSlopes base;
  Vec log_sum, mean;  // of the query's scores; of the slopes of its weights

  GENREC_INLINE void keep(std::int64_t c, Mask mask) const {
    const Vec weight = exp_of(base.bias.score(base.line, c, base.alpha) - log_sum);
    const Vec slope = weight * (base.bias.drop(load(base.slopes + c) * base.factor, c) - mean);
    base.put(c, mask, base.bias.drop(weight, c), slope);
  }
  GENREC_INLINE void all(std::int64_t c) const { keep(c, all_lanes); }
  GENREC_INLINE void some(std::int64_t c, Mask mask) const { keep(c, mask); }
  GENREC_INLINE void none(std::int64_t c) const { base.none(c); }
};

struct Range {
  std::int64_t from, until;
};

class Block {
 public:
  Block(const AttentionPlan& plan, const AttentionTask& task, const AttentionGradients& gradients,
        const AttentionTaskSums& sums, const AttentionBackwardScratch& scratch, std::int64_t head, std::int64_t begin,
        std::int64_t count, std::int64_t num_buckets)
      : plan_(plan),
        num_buckets_(num_buckets),
        args_(plan.args),
        gradients_(gradients),
        sums_(sums),
        scratch_(scratch),
        line_(scratch.base.line),
        head_(head),
        begin_(begin),
        count_(count),
        num_keys_(args_.kv_offsets[task.row + 1] - args_.kv_offsets[task.row]),
        first_query_(args_.offsets[task.row]),
        first_key_(args_.kv_offsets[task.row]),
        position_(num_keys_ - (args_.offsets[task.row + 1] - first_query_)),
        key_width_(num_panels(args_.width) * panel_width),
        value_width_(num_panels(args_.value_width) * panel_width),
        factor_(plan.scale * plan.kept_scale) {
    const std::int64_t key = first_key_ + begin;
    const float* k = static_cast<const float*>(args_.k) + key * args_.k_stride + head * args_.width;
    const float* v = static_cast<const float*>(args_.v) + key * args_.v_stride + head * args_.value_width;
    pack(k, args_.k_stride, 0, count, args_.width, keys());
    pack(v, args_.v_stride, 0, count, args_.value_width, values());
    pack_rows(k, args_.k_stride, count, count, args_.width, scratch.key_rows);
    clear(scratch.key_sums, count * key_width_);
    clear(scratch.value_sums, count * value_width_);
  }

  // Queries [first, last), at most a block of them; `seen` and `buckets` are those of `first`.
  void pass(std::int64_t first, std::int64_t last, const AttentionSeen* seen, const std::uint16_t* buckets) {
    const std::int64_t rows = last - first;
    const float* q = static_cast<const float*>(args_.q) + (first_query_ + first) * args_.q_stride + head_ * args_.width;
    const std::int64_t grad_stride = args_.num_heads * args_.value_width;
    const float* grad = gradients_.grad + (first_query_ + first) * grad_stride + head_ * args_.value_width;
    Range tiles[tiles_of_block];
    bool any = false;
    for (std::int64_t t = 0; t * tile_rows < rows; ++t) {
      tiles[t] = range_of(seen + t * tile_rows, rows - t * tile_rows);
      any |= tiles[t].from < tiles[t].until;
    }
    if (!any) return;
    for (std::int64_t t = 0; t * tile_rows < rows; ++t) {
      const std::int64_t row = t * tile_rows, here = rows - row < tile_rows ? rows - row : tile_rows;
      make_slopes(first + row, here, tiles[t], q + row * args_.q_stride, grad + row * grad_stride, grad_stride,
                  seen + row, buckets + row * line_, row);
    }
    if (args_.distance && sums_.distance) add_distance(first, rows, tiles);
    if (args_.time && sums_.time) add_time(rows, tiles, seen, buckets);
    add_queries(first, rows, tiles);
    pack_rows(q, args_.q_stride, rows, rows, args_.width, scratch_.query_rows);
    pack_rows(grad, grad_stride, rows, rows, args_.value_width, scratch_.grad_rows);
    const std::int64_t num_tiles = (rows + tile_rows - 1) / tile_rows;
    for (std::int64_t key = 0; key < count_; key += tile_rows) {
      // The tiles of queries that see one of these keys, from the first to the last of them.
      std::int64_t from = num_tiles, until = 0;
      for (std::int64_t t = 0; t < num_tiles; ++t)
        if (tiles[t].from < key + tile_rows && tiles[t].until > key) {
          from = t < from ? t : from;
          until = t + 1;
        }
      if (from >= until) continue;
      const std::int64_t i = from * tile_rows, depth = (until * tile_rows < rows ? until * tile_rows : rows) - i;
      const std::int64_t here = count_ - key < tile_rows ? count_ - key : tile_rows;
      Add to_keys{scratch_.key_sums + key * key_width_, key_width_, key_width_, 1.0f};
      product_of_vectors<Order::by_depth>(scratch_.slopes + i * line_ + key, line_, here,
                                          scratch_.query_rows + i * panel_width, rows * panel_width, 0,
                                          num_vectors(args_.width), depth, to_keys);
      Add to_values{scratch_.value_sums + key * value_width_, value_width_, value_width_, 1.0f};
      product_of_vectors<Order::by_depth>(scratch_.base.weights + i * line_ + key, line_, here,
                                          scratch_.grad_rows + i * panel_width, rows * panel_width, 0,
                                          num_vectors(args_.value_width), depth, to_values);
    }
  }

  void finish() const {
    const float values_by = args_.softmax ? plan_.kept_scale : factor_;
    for (std::int64_t j = 0; j < count_; ++j) {
      const std::int64_t key = (first_key_ + begin_ + j) * args_.num_heads + head_;
      for (std::int64_t c = 0; c < args_.width; ++c)
        gradients_.k[key * args_.width + c] = scratch_.key_sums[j * key_width_ + c] * args_.alpha;
      for (std::int64_t c = 0; c < args_.value_width; ++c)
        gradients_.v[key * args_.value_width + c] = scratch_.value_sums[j * value_width_ + c] * values_by;
    }
  }

 private:
  float* keys() const { return static_cast<float*>(scratch_.base.keys); }
  float* values() const { return static_cast<float*>(scratch_.base.values); }

  // The keys of this block that a tile of queries sees.
  Range range_of(const AttentionSeen* seen, std::int64_t rows) const {
    Range out{count_, 0};
    for (std::int64_t r = 0; r < rows && r < tile_rows; ++r) {
      const auto add = [&](std::int64_t from, std::int64_t until) {
        from = from > begin_ ? from - begin_ : 0;
        until = until - begin_ < count_ ? until - begin_ : count_;
        if (from >= until) return;
        out.from = from < out.from ? from : out.from;
        out.until = until > out.until ? until : out.until;
      };
      add(seen[r].first, seen[r].last);
      add(seen[r].second, seen[r].end);
    }
    return out;
  }

  void make_slopes(std::int64_t first, std::int64_t rows, const Range& range, const float* q, const float* grad,
                   std::int64_t grad_stride, const AttentionSeen* seen, const std::uint16_t* buckets,
                   std::int64_t row) {
    float* weights = scratch_.base.weights + row * line_;
    float* slopes = scratch_.slopes + row * line_;
    const std::int64_t from = range.from < range.until ? range.from / lanes * lanes : line_;
    const std::int64_t until = range.from < range.until ? (range.until + lanes - 1) / lanes * lanes : line_;
    if (range.from < range.until) {
      const std::int64_t panel = range.from / panel_width * panel_vecs, end = num_vectors(range.until);
      Keep scores{weights, line_}, changes{slopes, line_};
      product_of_vectors<Order::by_row>(q, args_.q_stride, rows, static_cast<const float*>(keys()),
                                        args_.width * panel_width, panel, end, args_.width, scores);
      product_of_vectors<Order::by_row>(grad, grad_stride, rows, static_cast<const float*>(values()),
                                        args_.value_width * panel_width, panel, end, args_.value_width, changes);
    }
    for (std::int64_t r = 0; r < rows; ++r, weights += line_, slopes += line_) {
      clear(weights, from), clear(slopes, from);
      clear(weights + until, line_ - until), clear(slopes + until, line_ - until);
      if (from >= until) continue;
      const std::int64_t query = first + r, at = (first_query_ + query) * args_.num_heads + head_;
      const LineBias bias(plan_, head_, query, position_ + query, first_query_, first_key_, begin_, buckets + r * line_,
                          num_buckets_);
      SiluSlopes body{weights, slopes, fill(args_.alpha), fill(args_.softmax ? plan_.kept_scale : factor_), bias};
      if (args_.softmax) {
        float mean = 0;
        for (std::int64_t c = 0; c < args_.value_width; ++c)
          mean += grad[r * grad_stride + c] * gradients_.out[at * args_.value_width + c];
        each_vector(seen[r], begin_, from, until, SoftmaxSlopes{body, fill(gradients_.log_sums[at]), fill(mean)});
      } else {
        each_vector(seen[r], begin_, from, until, body);
      }
    }
  }

  void add_distance(std::int64_t first, std::int64_t rows, const Range* tiles) const {
    float* sums = sums_.distance + (sums_.distance_step ? head_ * sums_.distance_step : 0) + begin_ + num_keys_ - 1;
    for (std::int64_t r = 0; r < rows; ++r) {
      const Range& range = tiles[r / tile_rows];
      float* to = sums - (position_ + first + r);
      const float* slopes = scratch_.slopes + r * line_;
      for (std::int64_t c = range.from / lanes * lanes; c < range.until; c += lanes)
        store(to + c, load(to + c) + load(slopes + c));
    }
  }

  // Four running sums a bucket: neighbours mostly share one, and would wait for each other.
  // A query has no buckets behind the last key that it sees.
  void add_time(std::int64_t rows, const Range* tiles, const AttentionSeen* seen, const std::uint16_t* buckets) const {
    float* sums = scratch_.time_sums;
    const std::int64_t size = args_.time_size;
    clear(sums, 4 * size);
    for (std::int64_t r = 0; r < rows; ++r) {
      const Range& range = tiles[r / tile_rows];
      const float* slopes = scratch_.slopes + r * line_;
      const std::uint16_t* bucket = buckets + r * line_;
      const std::int64_t last_seen = seen_until(seen[r]) - begin_,
                         until = last_seen < range.until ? last_seen : range.until;
      std::int64_t c = range.from;
      for (; c + 4 <= until; c += 4)
        for (int l = 0; l < 4; ++l) sums[l * size + bucket[c + l]] += slopes[c + l];
      for (; c < until; ++c) sums[bucket[c]] += slopes[c];
    }
    float* to = sums_.time + (args_.time_heads > 1 ? head_ : 0) * size;
    for (std::int64_t b = 0; b < size; ++b) to[b] += sums[b] + sums[size + b] + sums[2 * size + b] + sums[3 * size + b];
  }

  void add_queries(std::int64_t first, std::int64_t rows, const Range* tiles) const {
    for (std::int64_t row = 0; row < rows; row += tile_rows) {
      const Range& range = tiles[row / tile_rows];
      if (range.from >= range.until) continue;
      Add ending{sums_.q + (first + row) * sums_.q_stride + head_ * args_.width, sums_.q_stride, args_.width,
                 args_.alpha};
      product_of_vectors<Order::by_row>(
          scratch_.slopes + row * line_ + range.from, line_, rows - row < tile_rows ? rows - row : tile_rows,
          static_cast<const float*>(scratch_.key_rows) + range.from * panel_width, count_ * panel_width, 0,
          num_vectors(args_.width), range.until - range.from, ending);
    }
  }

  const AttentionPlan& plan_;
  std::int64_t num_buckets_;
  const AttentionArgs& args_;
  const AttentionGradients& gradients_;
  const AttentionTaskSums& sums_;
  const AttentionBackwardScratch& scratch_;
  std::int64_t line_, head_, begin_, count_, num_keys_, first_query_, first_key_;
  std::int64_t position_;  // of the row's first query
  std::int64_t key_width_, value_width_;
  float factor_;  // of silu's weights
};

}  // namespace

void attention_backward(const AttentionPlan& plan, const AttentionTask& task, const AttentionGradients& gradients,
                        const AttentionTaskSums& sums, const AttentionBackwardScratch& scratch) {
  const AttentionArgs& args = plan.args;
  const SeenRule rule(args, task.row);
  const std::int64_t num_queries = args.offsets[task.row + 1] - args.offsets[task.row];
  AttentionSeen* seen = scratch.base.seen;
  for (std::int64_t i = 0; i < num_queries; ++i) seen[i] = rule.seen(rule.num_keys - num_queries + i);
  for (std::int64_t begin = task.first; begin < task.last; begin += key_block) {
    const std::int64_t end = task.last - begin < key_block ? task.last : begin + key_block;
    std::int64_t first = num_queries, last = 0;
    for (std::int64_t i = 0; i < num_queries; ++i) {
      const bool sees = (seen[i].first < end && seen[i].last > begin && seen[i].first < seen[i].last) ||
                        (seen[i].second < end && seen[i].end > begin && seen[i].second < seen[i].end);
      if (!sees) continue;
      first = i < first ? i : first;
      last = i + 1;
    }
    AttentionScratch buckets = scratch.base;
    buckets.seen += first < last ? first : 0;
    const std::int64_t num_buckets =
        args.time && first < last ? fill_buckets(args, task.row, first, last, begin, end, buckets) : 0;
    for (std::int64_t head = task.head; head < task.last_head; ++head) {
      Block block(plan, task, gradients, sums, scratch, head, begin, end - begin, num_buckets);
      for (std::int64_t i = first; i < last; i += query_block)
        block.pass(i, last - i < query_block ? last : i + query_block, seen + i,
                   scratch.base.buckets + (i - first) * scratch.base.line);
      block.finish();
    }
  }
}

}  // namespace genrec::GENREC_ISA
