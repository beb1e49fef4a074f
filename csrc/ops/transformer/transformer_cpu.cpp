// The bodies of native inference, compiled once per instruction set. A layer reads its rows (norm, queries, keys,
// values), then attends and goes through its feed-forward part; between the two, prompts pack their keys and values.
// In a step rows depend on earlier calls alone, so a chunk of them passes through all layers by itself; rows of a tree
// depend on each other, so layers go one by one.
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "ops/jagged/attention_rows.h"
#include "ops/transformer/transformer.h"
#include "ops/transformer/transformer_keys.h"
#include "ops/transformer/transformer_rows.h"

namespace genrec::GENREC_ISA {
namespace {

float dot(const float* a, const float* b, std::int64_t count) {
  Vec total = fill(0.0f);
  std::int64_t c = 0;
  for (; c + lanes <= count; c += lanes) total = multiply_add(load(a + c), load(b + c), total);
  float rest = 0.0f;
  for (; c < count; ++c) rest += a[c] * b[c];
  return sum(total) + rest;
}

void add_scaled(float* to, const float* from, float factor, std::int64_t count) {
  std::int64_t c = 0;
  for (; c + lanes <= count; c += lanes) store(to + c, multiply_add(load(from + c), fill(factor), load(to + c)));
  for (; c < count; ++c) to[c] += from[c] * factor;
}

void scale(float* x, float factor, std::int64_t count) {
  std::int64_t c = 0;
  for (; c + lanes <= count; c += lanes) store(x + c, load(x + c) * fill(factor));
  for (; c < count; ++c) x[c] *= factor;
}

// One line of scores -> weights at `to` and, in place, of the chain; returns their sum's inverse, which they lack.
// Prompt keys [from, until) of the columns [begin, end), whole vectors; `count` more at `chain`, ready scores, behind
// which a vector may be read.
template <class Element>
float soften(float* line, Element* to, std::int64_t begin, std::int64_t end, std::int64_t from, std::int64_t until,
             float alpha, const float* distance, float* chain, std::int64_t count) {
  Vec best = fill(negative_infinity), total = fill(0.0f);
  for (std::int64_t c = begin; c < end; c += lanes) {
    Vec x = load(line + c) * fill(alpha);
    if (distance) x = x + load(distance + c);
    const Mask mask = between(from - c, until - c);
    if (mask != 0xffffu) x = choose(mask, x, fill(negative_infinity));
    store(line + c, x);
    best = greater(best, x);
  }
  float top = maximum(best);
  for (std::int64_t j = 0; j < count; ++j) top = chain[j] > top ? chain[j] : top;
  for (std::int64_t c = begin; c < end; c += lanes) {
    const Vec weight = weight_exp<Element>(load(line + c) - fill(top));
    put(to + c, weight);
    total = total + weight;
  }
  float sums = sum(total);
  for (std::int64_t j = 0; j < count; j += lanes) {
    float weights[lanes];
    store(weights, exp_of(load(chain + j) - fill(top)));
    for (std::int64_t i = j; i < count && i < j + lanes; ++i) sums += chain[i] = weights[i - j];
  }
  return 1.0f / sums;
}

// The rows of one user that go through the products together.
struct Group {
  std::int64_t user, first, count;
};

class Attention {
 public:
  Attention(const TransformerRows& rows, std::int64_t layer, const TransformerScratch& scratch)
      : rows_(rows), stack_(*rows.stack), layer_(layer), scratch_(scratch) {}

  // Queries at q[(row - first) * q_stride], rows [first, last) -> attended[(row - first) * attended_stride].
  void run(std::int64_t first, std::int64_t last, const float* q, std::int64_t q_stride, bool cross) const {
#if GENREC_BF16
    if (halves(stack_)) return run<std::uint16_t>(first, last, q, q_stride, cross);
#endif
    run<float>(first, last, q, q_stride, cross);
  }

 private:
  template <class Element>
  void run(std::int64_t first, std::int64_t last, const float* q, std::int64_t q_stride, bool cross) const {
    for (std::int64_t row = first; row < last;) {
      Group group{rows_.users[row], row, 1};
      while (group.count < tile_rows && row + group.count < last && rows_.users[row + group.count] == group.user)
        ++group.count;
      for (std::int64_t head = 0; head < stack_.num_heads; ++head)
        one_head<Element>(group, head, q + (row - first) * q_stride + head * stack_.head_width, q_stride,
                          scratch_.attended + (row - first) * scratch_.attended_stride + head * stack_.head_width,
                          cross);
      row += group.count;
    }
    const std::int64_t end = stack_.num_heads * stack_.head_width;
    for (std::int64_t r = 0; r < last - first; ++r)  // the last head may have written behind itself
      for (std::int64_t c = end; c < whole_vectors(end); ++c) scratch_.attended[r * scratch_.attended_stride + c] = 0;
  }

  // Queries of one head as the products read them, behind the weights of a tile.
  const float* queries(const float* q, std::int64_t q_stride, std::int64_t, float*, std::int64_t* stride) const {
    *stride = q_stride;
    return q;
  }
#if GENREC_BF16
  const std::uint16_t* queries(const float* q, std::int64_t q_stride, std::int64_t count, std::uint16_t* weights,
                               std::int64_t* stride) const {
    std::uint16_t* to = weights + tile_rows * scratch_.line_stride;
    *stride = whole_vectors(stack_.head_width);
    round_rows(q, q_stride, count, stack_.head_width, to, *stride);
    return to;
  }
  std::uint16_t* weights_of(std::uint16_t*) const { return scratch_.halves; }
#endif
  float* weights_of(float*) const { return scratch_.line; }

  template <class Element>
  void one_head(const Group& group, std::int64_t head, const float* q, std::int64_t q_stride, float* out,
                bool cross) const {
    const std::int64_t width = stack_.head_width, kv = head / (stack_.num_heads / stack_.num_kv_heads);
    const Known<Element> seen = known<Element>(rows_, cross, layer_, group.user, kv);
    const bool all = cross || rows_.step != nullptr || !stack_.causal;
    const std::int64_t window = cross ? 0 : stack_.window;
    const auto from_of = [&](std::int64_t row) {
      const std::int64_t from = window ? rows_.positions[row] + 1 - window : 0;
      return from < 0 ? 0 : from < seen.count ? from : seen.count;
    };
    const auto until_of = [&](std::int64_t row) { return all ? seen.count : rows_.positions[row] + 1; };
    const std::int64_t last = group.first + group.count - 1;  // positions ascend within a user's prompt
    std::int64_t earliest = from_of(group.first);
    for (std::int64_t row = group.first; row <= last; ++row)  // but not within a tree
      earliest = from_of(row) < earliest ? from_of(row) : earliest;
    const std::int64_t panel = earliest / panel_width, begin = panel * panel_width, until = until_of(last),
                       end = whole_vectors(until);
    Keep scores{scratch_.line, scratch_.line_stride};
    Element* weights = weights_of(static_cast<Element*>(nullptr));
    if (begin < until) {
      const std::int64_t depth = in_groups<Element>(width);
      std::int64_t stride;
      const Element* rows = queries(q, q_stride, group.count, weights, &stride);
      product_of_vectors<Order::by_row>(rows, stride, group.count, static_cast<const Element*>(seen.keys),
                                        depth * panel_width, panel * panel_vecs, num_vectors(until), depth, scores);
    }
    const std::int64_t chained = cross || !rows_.step ? 0 : rows_.step->depth + 1;
    const auto chained_of = [&](std::int64_t row) { return chained ? rows_.positions[row] - seen.count + 1 : 0; };
    float* chain = scratch_.line + tile_rows * scratch_.line_stride;
    float inverse[tile_rows];
    for (std::int64_t r = 0; r < group.count; ++r) {
      const std::int64_t row = group.first + r;
      if (chained) score_chain(row, head, kv, q + r * q_stride, seen.count, chain + r * chained);
      const float* distance = nullptr;
      if (rows_.tables.distance && !cross)
        distance = rows_.tables.distance + head * rows_.tables.distance_size - rows_.positions[row];
      inverse[r] =
          soften(scratch_.line + r * scratch_.line_stride, weights + r * scratch_.line_stride, begin, end, from_of(row),
                 until_of(row), stack_.score_scale, distance, chain + r * chained, chained_of(row));
    }
    Keep sums{out, scratch_.attended_stride};
    if (begin < until) {
      product_of_vectors<Order::by_row>(static_cast<const Element*>(weights) + begin, scratch_.line_stride, group.count,
                                        static_cast<const Element*>(seen.values) + begin * panel_width,
                                        in_groups<Element>(seen.count) * panel_width, 0, num_vectors(width),
                                        in_groups<Element>(until - begin), sums);
    } else {
      for (std::int64_t r = 0; r < group.count; ++r)
        for (std::int64_t c = 0; c < width; ++c) out[r * scratch_.attended_stride + c] = 0.0f;
    }
    for (std::int64_t r = 0; r < group.count; ++r) {
      float* to = out + r * scratch_.attended_stride;
      const std::int64_t row = group.first + r, depth = chained_of(row) - 1;
      for (std::int64_t j = 0; j <= depth; ++j)
        add_scaled(to, link(row, j, depth, kv) + stack_.num_kv_heads * width, chain[r * chained + j], width);
      scale(to, inverse[r], width);
    }
  }

  // Key of head kv of a row's ancestor at depth j (its own: the row itself); its value stands num_kv_heads heads on.
  const float* link(std::int64_t row, std::int64_t j, std::int64_t depth, std::int64_t kv) const {
    const TransformerStep& step = *rows_.step;
    const std::int64_t kept = 2 * stack_.num_kv_heads * stack_.head_width;
    const std::int64_t num_rows = step.num_rows, own = rows_.first_row + row;
    const std::int64_t at = j * num_rows + own, from = j == depth ? own : step.ancestors[at];
    const std::int64_t part = j == depth ? step.num_steps : step.parts ? step.parts[at] : j;
    const bool here = part == step.num_steps;
    return (here ? step.kept : step.chain[part]) + (layer_ * (here ? num_rows : step.chain_rows[part]) + from) * kept +
           kv * stack_.head_width;
  }

  void score_chain(std::int64_t row, std::int64_t head, std::int64_t kv, const float* q, std::int64_t prompt,
                   float* out) const {
    const std::int64_t position = rows_.positions[row], depth = position - prompt;
    for (std::int64_t j = 0; j <= depth; ++j) {
      out[j] = dot(q, link(row, j, depth, kv), stack_.head_width) * stack_.score_scale;
      if (rows_.tables.distance)
        out[j] += rows_.tables.distance[head * rows_.tables.distance_size + prompt + j - position];
      if (stack_.window && prompt + j <= position - stack_.window) out[j] = negative_infinity;
    }
  }

  const TransformerRows& rows_;
  const TransformerStack& stack_;
  std::int64_t layer_;
  const TransformerScratch& scratch_;
};

// Norm of rows [first, last) into scratch.normed, as an operand.
Operand normed(const TransformerRows& rows, const Norm& norm, std::int64_t first, std::int64_t last,
               const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  for (std::int64_t row = first; row < last; ++row)
    normalize(stack, norm, rows.x + row * rows.x_stride, stack.width,
              scratch.normed + (row - first) * scratch.normed_stride);
  return prepare(stack.precision, scratch.normed, scratch.normed_stride, last - first, stack.width, scratch);
}

}  // namespace

TransformerSizes transformer_sizes() { return {panel_width, tile_rows, GENREC_BF16 != 0}; }

std::int64_t transformer_head_cell(const TransformerStack& stack, std::int64_t keys) {
  return halves(stack) ? head_cell<std::uint16_t>(keys, stack.head_width) : head_cell<float>(keys, stack.head_width);
}

// Queries, keys and values of rows [first, last), before they are turned.
void transformer_mix(const TransformerRows& rows, std::int64_t layer, std::int64_t first, std::int64_t last,
                     const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const TransformerLayer& part = stack.layers[layer];
  const Operand operand = normed(rows, part.before_attention, first, last, scratch);
  apply(stack.precision, operand, part.qkv, rows.qkv + first * rows.qkv_stride, rows.qkv_stride, Then::store);
}

// The same, turned, and kept if these are rows of a step.
void transformer_read(const TransformerRows& rows, std::int64_t layer, std::int64_t first, std::int64_t last,
                      const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const TransformerLayer& part = stack.layers[layer];
  const std::int64_t width = stack.head_width, kept = 2 * stack.num_kv_heads * width;
  const std::int64_t mixed = (stack.num_heads + 2 * stack.num_kv_heads) * width;
  float* qkv = rows.qkv + first * rows.qkv_stride;
  if (layer == 0 && rows.first_table) {
    for (std::int64_t row = first; row < last; ++row)
      __builtin_memcpy(rows.qkv + row * rows.qkv_stride, rows.first_table + rows.tokens[row] * mixed,
                       static_cast<std::size_t>(mixed) * 4);
  } else {
    transformer_mix(rows, layer, first, last, scratch);
  }
  for (std::int64_t row = first; row < last; ++row, qkv += rows.qkv_stride) {
    const float* turn = stack.rotary_width ? rows.tables.rotary + rows.positions[row] * stack.rotary_width : nullptr;
    for (std::int64_t head = 0; head < stack.num_heads + stack.num_kv_heads; ++head) {
      const float* weight = head < stack.num_heads ? part.q_norm : part.k_norm;
      if (weight) normalize_head(qkv + head * width, weight, width, stack.epsilon);
      if (turn) rotate(qkv + head * width, turn, stack.rotary_width);
    }
    if (rows.step) {
      const TransformerStep& step = *rows.step;
      float* to = step.kept + (layer * step.num_rows + rows.first_row + row) * kept;
      const float* from = qkv + stack.num_heads * width;
      for (std::int64_t c = 0; c < kept; ++c) to[c] = from[c];
    }
  }
}

// Packs what a user's prompt has for one head of keys.
void transformer_pack(const TransformerRows& rows, std::int64_t layer, std::int64_t user, std::int64_t head,
                      const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const float* keys = rows.qkv + (rows.row_offsets[user] - rows.first_row) * rows.qkv_stride +
                      (stack.num_heads + head) * stack.head_width;
  if (rows.past && rows.past->used[user])
    join_head(rows, layer, user, head, keys, rows.qkv_stride, scratch);
  else
    keep_head(rows, false, layer, user, head, keys, rows.qkv_stride, scratch);
}

// Keys and values of one user's encoder rows in one layer; `pairs` [keys of the user][pair_stride] is working memory,
// rows.x the encoder's rows.
void transformer_pack_cross(const TransformerRows& rows, std::int64_t layer, std::int64_t user, float* pairs,
                            std::int64_t pair_stride, const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const std::int64_t count = num_keys(rows.cross, user);
  const Operand operand = prepare(stack.precision, rows.x + rows.cross.offsets[user] * rows.x_stride, rows.x_stride,
                                  count, stack.cross_width, scratch);
  apply(stack.precision, operand, stack.layers[layer].cross_kv, pairs, pair_stride, Then::store);
  for (std::int64_t head = 0; head < stack.num_kv_heads; ++head) {
    const float* keys = pairs + head * stack.head_width;
    keep_head(rows, true, layer, user, head, keys, pair_stride, scratch);
  }
}

// Attention and the feed-forward part of rows [first, last).
void transformer_attend(const TransformerRows& rows, std::int64_t layer, std::int64_t first, std::int64_t last,
                        const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const TransformerLayer& part = stack.layers[layer];
  const Attention attention(rows, layer, scratch);
  const std::int64_t heads = stack.num_heads * stack.head_width, count = last - first;
  float* x = rows.x + first * rows.x_stride;
  const auto finish_attention = [&](const Linear& linear) {
    const Operand operand = prepare(stack.precision, scratch.attended, scratch.attended_stride, count, heads, scratch);
    apply(stack.precision, operand, linear, x, rows.x_stride, Then::add);
  };
  attention.run(first, last, rows.qkv + first * rows.qkv_stride, rows.qkv_stride, false);
  finish_attention(part.attended);
  if (stack.cross_width) {
    apply(stack.precision, normed(rows, part.before_cross, first, last, scratch), part.cross_q, scratch.wide,
          scratch.wide_stride, Then::store);
    attention.run(first, last, scratch.wide, scratch.wide_stride, true);
    finish_attention(part.cross_attended);
  }
  const Operand operand = normed(rows, part.before_feed_forward, first, last, scratch);
  apply(stack.precision, operand, part.gate.panels ? part.gate : part.up, scratch.wide, scratch.wide_stride,
        Then::store, stack.activation);
  if (part.gate.panels) apply(stack.precision, operand, part.up, scratch.wide, scratch.wide_stride, Then::multiply);
  apply(stack.precision, prepare(stack.precision, scratch.wide, scratch.wide_stride, count, stack.ff_width, scratch),
        part.down, x, rows.x_stride, Then::add);
}

// The last norm of rows [first, last); hidden is not padded.
void transformer_finish(const TransformerRows& rows, std::int64_t first, std::int64_t last, float* hidden,
                        const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  for (std::int64_t row = first; row < last; ++row) {
    const float* x = rows.x + row * rows.x_stride;
    if (stack.last_norm.weight) normalize(stack, stack.last_norm, x, stack.width, scratch.normed);
    const float* from = stack.last_norm.weight ? scratch.normed : x;
    for (std::int64_t c = 0; c < stack.width; ++c) hidden[row * stack.width + c] = from[c];
  }
}

}  // namespace genrec::GENREC_ISA
