// The head: logits of part of the vocabulary, and the log-sum-exp over all of it in the same pass.
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "ops/jagged/attention_rows.h"
#include "ops/transformer/transformer.h"
#include "ops/transformer/transformer_rows.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr float lowest_logit = -3.0e38f;  // differences stay finite where a lane has seen none

// Keeps columns [first, last), and per row and lane the highest logit with the sum of exponentials below it.
struct Logits {
  const float* bias;
  float* out;  // [rows][last - first]
  std::int64_t first, last, size;
  float *best, *total;  // [rows][lanes], or null

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) sums[r][v] = fill(0.0f);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    if (bias)
      for (int v = 0; v < Vecs; ++v)
        for (int r = 0; r < Rows; ++r) sums[r][v] = sums[r][v] + load(bias + column + v * lanes);
    if (first < last && column < last && column + Vecs * lanes > first)
      for (int r = 0; r < Rows; ++r)
        for (int v = 0; v < Vecs; ++v) put(row + r, column + v * lanes, sums[r][v]);
    if (!best) return;
    if (column + Vecs * lanes > size)
      for (int v = 0; v < Vecs; ++v) {
        const Mask inside = between(0, size - column - v * lanes);
        for (int r = 0; r < Rows; ++r) sums[r][v] = choose(inside, sums[r][v], fill(lowest_logit));
      }
    // Panel by panel, however many the tile has: its shape depends on the other rows, and the sum must not.
    constexpr int group = Vecs < panel_vecs ? Vecs : panel_vecs;
    for (int r = 0; r < Rows; ++r) {
      Vec top = load(best + (row + r) * lanes), sum_here = load(total + (row + r) * lanes);
      for (int first_of = 0; first_of < Vecs; first_of += group) {
        const Vec before = top;
        for (int v = first_of; v < first_of + group; ++v) top = greater(top, sums[r][v]);
        sum_here = sum_here * exp_of(before - top);
        for (int v = first_of; v < first_of + group; ++v) sum_here = sum_here + exp_of(sums[r][v] - top);
      }
      store(best + (row + r) * lanes, top);
      store(total + (row + r) * lanes, sum_here);
    }
  }
  GENREC_INLINE void put(std::int64_t row, std::int64_t column, const Vec& x) const {
    float* to = out + row * (last - first) + column - first;
    if (column >= first && column + lanes <= last) {
      store(to, x);
      return;
    }
    float line[lanes];
    store(line, x);
    for (int i = 0; i < lanes; ++i)
      if (column + i >= first && column + i < last) to[i] = line[i];
  }
};

}  // namespace

// Rows [begin, end). `best` and `total`: [end - begin][16] floats of working memory.
void transformer_head_rows(const TransformerStack& stack, const TransformerHead& args, std::int64_t begin,
                           std::int64_t end, float* best, float* total, const TransformerScratch& scratch) {
  const std::int64_t count = end - begin;
  for (std::int64_t r = 0; r < count; ++r) {
    const float* from = args.hidden + (begin + r) * stack.width;
    float* to = scratch.normed + r * scratch.normed_stride;
    for (std::int64_t c = 0; c < stack.width; ++c) to[c] = from[c];
    for (std::int64_t c = stack.width; c < whole_vectors(stack.width); ++c) to[c] = 0.0f;
  }
  const Operand operand = prepare(stack.precision, scratch.normed, scratch.normed_stride, count, stack.width, scratch);
  Logits ending{
      stack.head.bias, args.logits + begin * (args.last - args.first), args.first, args.last, stack.head_size, nullptr,
      nullptr};
  if (!args.log_sums) {
    multiply_panels(stack.precision, operand, stack.head, args.first / panel_width, num_panels(args.last), ending);
    return;
  }
  ending.best = best, ending.total = total;
  for (std::int64_t i = 0; i < count * lanes; ++i) best[i] = lowest_logit, total[i] = 0.0f;
  multiply_panels(stack.precision, operand, stack.head, 0, num_panels(stack.head_size), ending);
  for (std::int64_t r = 0; r < count; ++r) {
    const Vec lane_best = load(best + r * lanes);
    const float top = maximum(lane_best);
    args.log_sums[begin + r] = top + logf(sum(load(total + r * lanes) * exp_of(lane_best - fill(top))));
  }
}

}  // namespace genrec::GENREC_ISA
