// What a transformer does to rows between its attentions: norms, rotation by position, and products with the packed
// weights in their precision. Included by per-ISA files alone.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "core/math.h"
#include "ops/transformer/transformer.h"

namespace genrec::GENREC_ISA {

static inline std::int64_t whole_vectors(std::int64_t count) { return num_vectors(count) * lanes; }

// out = norm(x) of `count` channels; both padded with zeros to whole vectors, as are the weights.
static inline void normalize(const TransformerStack& stack, const Norm& norm, const float* x, std::int64_t count,
                             float* out) {
  const std::int64_t end = whole_vectors(count);
  Vec squares = fill(0.0f), total = fill(0.0f);
  float mean = 0.0f;
  if (stack.layer_norm) {
    for (std::int64_t c = 0; c < end; c += lanes) total = total + load(x + c);
    mean = sum(total) / static_cast<float>(count);
  }
  const Vec shift = fill(mean);
  for (std::int64_t c = 0; c < end; c += lanes) {
    Vec d = load(x + c) - shift;
    if (c + lanes > count) d = choose(between(0, count - c), d, fill(0.0f));
    squares = multiply_add(d, d, squares);
  }
  const float scale = 1.0f / sqrtf(sum(squares) / static_cast<float>(count) + stack.epsilon);
  for (std::int64_t c = 0; c < end; c += lanes) {
    Vec y = (load(x + c) - shift) * fill(scale) * load(norm.weight + c);
    if (norm.bias) y = y + load(norm.bias + c);
    store(out + c, y);
  }
}

// The root mean square norm of one head, in place; heads are not padded.
static inline void normalize_head(float* x, const float* weight, std::int64_t count, float epsilon) {
  float squares = 0.0f;
  std::int64_t c = 0;
  Vec partial = fill(0.0f);
  for (; c + lanes <= count; c += lanes) partial = multiply_add(load(x + c), load(x + c), partial);
  for (; c < count; ++c) squares += x[c] * x[c];
  const float scale = 1.0f / sqrtf((sum(partial) + squares) / static_cast<float>(count) + epsilon);
  for (c = 0; c + lanes <= count; c += lanes) store(x + c, load(x + c) * fill(scale) * load(weight + c));
  for (; c < count; ++c) x[c] = x[c] * scale * weight[c];
}

// Turns channel pairs (c, c + width / 2) of one head by the angles of a position.
static inline void rotate(float* x, const float* cosines, std::int64_t width) {
  const std::int64_t half = width / 2;
  const float* sines = cosines + half;
  std::int64_t c = 0;
  for (; c + lanes <= half; c += lanes) {
    const Vec a = load(x + c), b = load(x + half + c), cosine = load(cosines + c), sine = load(sines + c);
    store(x + c, a * cosine - b * sine);
    store(x + half + c, multiply_add(a, sine, b * cosine));
  }
  for (; c < half; ++c) {
    const float a = x[c], b = x[half + c];
    x[c] = a * cosines[c] - b * sines[c];
    x[half + c] = b * cosines[c] + a * sines[c];
  }
}

// The error function, absolute error 2e-7 (Abramowitz and Stegun 7.1.26).
static inline Vec erf_of(const Vec& x) {
  const Vec a = greater(x, fill(0.0f) - x);
  const Vec t = reciprocal(multiply_add(fill(0.3275911f), a, fill(1.0f)));
  Vec p = multiply_add(fill(1.061405429f), t, fill(-1.453152027f));
  p = multiply_add(p, t, fill(1.421413741f));
  p = multiply_add(p, t, fill(-0.284496736f));
  p = multiply_add(p, t, fill(0.254829592f));
  const Vec y = fill(1.0f) - p * t * exp_of(fill(0.0f) - a * a);
  return choose(at_least(x, fill(0.0f)), y, fill(0.0f) - y);
}

static inline Vec activate(Activation kind, const Vec& x) {
  switch (kind) {
    case Activation::relu:
      return greater(x, fill(0.0f));
    case Activation::gelu:
      return x * fill(0.5f) * (fill(1.0f) + erf_of(x * fill(0.70710678f)));
    case Activation::gelu_tanh: {
      const Vec inner = x * multiply_add(x * x, fill(0.044715f), fill(1.0f));
      return x * sigmoid(inner * fill(1.5957691216f));  // (1 + tanh u) / 2 = sigmoid(2 u)
    }
    case Activation::silu:
      return x * sigmoid(x);
    default:
      return x;
  }
}

enum class Then : int { store, add, multiply };

// An ending: out = sums + bias, through an activation, then stored, added or multiplied. Whole vectors below `columns`.
struct Write {
  float* out;
  std::int64_t stride, columns;
  const float* bias;
  Activation activation;
  Then then;

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) sums[r][v] = fill(0.0f);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int v = 0; v < Vecs; ++v) {
      const std::int64_t c = column + v * lanes;
      if (c >= columns) continue;
      const Vec b = bias ? load(bias + c) : fill(0.0f);
      for (int r = 0; r < Rows; ++r) put(out + (row + r) * stride + c, sums[r][v] + b);
    }
  }
  GENREC_INLINE void put(float* to, Vec x) const {
    if (activation != Activation::none) x = activate(activation, x);
    if (then == Then::add) x = x + load(to);
    if (then == Then::multiply) x = x * load(to);
    store(to, x);
  }
};

// Rows as a product reads them: float32 as they are, else rounded once for all products that share them.
struct Operand {
  const void* rows;
  std::int64_t stride, num_rows;
  const float* scales;  // int8: of the rows
};

static inline Operand prepare(Precision precision, const float* rows, std::int64_t stride, std::int64_t num_rows,
                              std::int64_t in, const TransformerScratch& scratch) {
#if GENREC_BF16
  if (precision == Precision::bfloat16) {
    const std::int64_t padded = whole_vectors(in);
    std::uint16_t* to = static_cast<std::uint16_t*>(scratch.rounded);
    for (std::int64_t r = 0; r < num_rows; ++r)
      for (std::int64_t c = 0; c < padded; c += lanes) store_bfloat16(to + r * padded + c, load(rows + r * stride + c));
    return {to, padded, num_rows, nullptr};
  }
#endif
  if (precision == Precision::int8) {
    const std::int64_t padded = whole_vectors(in);
    std::uint8_t* to = static_cast<std::uint8_t*>(scratch.rounded);
    for (std::int64_t r = 0; r < num_rows; ++r)
      scratch.row_scale[r] = quantize_row(rows + r * stride, padded, to + r * padded);
    return {to, padded, num_rows, scratch.row_scale};
  }
  return {rows, stride, num_rows, nullptr};
}

// Panels [first, last) of the weights. A group of them takes a quarter of a second cache of 1 MiB and meets all rows
// before the next.
template <class Ending>
static inline void multiply_panels(Precision precision, const Operand& operand, const Linear& linear,
                                   std::int64_t first, std::int64_t last, Ending& ending) {
  const std::int64_t step = precision == Precision::int8 ? 4 : precision == Precision::bfloat16 ? 2 : 1;
  const std::int64_t depth = (linear.in + step - 1) / step * step;
  const std::int64_t fitting = (std::int64_t{1} << 18) / (depth * panel_width * 4 / step);
  const std::int64_t group = fitting < 2 ? 2 : fitting;
  for (std::int64_t p = first; p < last; p += group) {
    const std::int64_t end = p + group < last ? p + group : last;
    if (precision == Precision::int8) {
      product_int8(static_cast<const std::uint8_t*>(operand.rows), operand.stride, operand.num_rows,
                   static_cast<const std::int8_t*>(linear.panels), p, end, depth,
                   Scales{operand.scales, linear.scales, linear.sums}, ending);
#if GENREC_BF16
    } else if (precision == Precision::bfloat16) {
      product(static_cast<const std::uint16_t*>(operand.rows), operand.stride, operand.num_rows,
              static_cast<const std::uint16_t*>(linear.panels), p, end, depth, ending);
#endif
    } else {
      product(static_cast<const float*>(operand.rows), operand.stride, operand.num_rows,
              static_cast<const float*>(linear.panels), p, end, depth, ending);
    }
  }
}

static inline void apply(Precision precision, const Operand& operand, const Linear& linear, float* out,
                         std::int64_t stride, Then then, Activation activation = Activation::none) {
  Write ending{out, stride, whole_vectors(linear.out), linear.bias, activation, then};
  multiply_panels(precision, operand, linear, 0, num_panels(linear.out), ending);
}

}  // namespace genrec::GENREC_ISA
