#include <cstdint>

#include "core/vec.h"
#include "ops/rq/kmeans_step.h"

namespace genrec::GENREC_ISA {
namespace {

// |x - c|^2: float64, 16 running lanes.
double distance(const float* x, const float* c, std::int64_t depth) {
  double lane[lanes] = {};
  std::int64_t d = 0;
  for (; d + lanes <= depth; d += lanes)
    for (int i = 0; i < lanes; ++i) {
      const double rest = static_cast<double>(x[d + i]) - static_cast<double>(c[d + i]);
      lane[i] += rest * rest;
    }
  for (int i = 0; d + i < depth; ++i) {
    const double rest = static_cast<double>(x[d + i]) - static_cast<double>(c[d + i]);
    lane[i] += rest * rest;
  }
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

void add(const float* x, std::int64_t count, double* sum) {
  for (std::int64_t d = 0; d < count; ++d) sum[d] += static_cast<double>(x[d]);
}

// 16 at most of `count` elements from x[at] on.
void widen(const KMeansStepArgs& args, std::int64_t at, std::int64_t count, float* out) {
  const std::uint16_t* x = static_cast<const std::uint16_t*>(args.x) + at;
  const bool half = args.element == RqElement::float16;
  if (count >= lanes) {
    store(out, half ? load_half(x) : load_bfloat16(x));
    return;
  }
  for (std::int64_t i = 0; i < count; ++i)
    out[i] = half ? float_of_half(x[i]) : float_of(static_cast<std::uint32_t>(x[i]) << 16);
}

}  // namespace

// Squared distances of `count` rows to their centroids.
void kmeans_distances(const KMeansStepArgs& args, const float* rows, const std::int32_t* labels, std::int64_t count,
                      double* out) {
  for (std::int64_t r = 0; r < count; ++r)
    out[r] = distance(rows + r * args.depth, args.centroids + labels[r] * args.depth, args.depth);
}

// Adds `count` rows to the sums of their centroids.
void kmeans_add_rows(const KMeansStepArgs& args, const float* rows, const std::int32_t* labels, std::int64_t count) {
  for (std::int64_t r = 0; r < count; ++r) add(rows + r * args.depth, args.depth, args.sums + labels[r] * args.depth);
}

// Columns [first, last) of all rows of x.
void kmeans_add_columns(const KMeansStepArgs& args, std::int64_t first, std::int64_t last) {
  for (std::int64_t n = 0; n < args.num_rows; ++n) {
    double* sum = args.sums + args.labels[n] * args.depth;
    if (args.element == RqElement::float32) {
      add(static_cast<const float*>(args.x) + n * args.depth + first, last - first, sum + first);
      continue;
    }
    float wide[lanes];
    for (std::int64_t d = first; d < last; d += lanes) {
      const std::int64_t here = last - d < lanes ? last - d : lanes;
      widen(args, n * args.depth + d, here, wide);
      add(wide, here, sum + d);
    }
  }
}

}  // namespace genrec::GENREC_ISA
