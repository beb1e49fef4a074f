#include "ops/rq/kmeans_step.h"

#include <algorithm>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/rq/rq_levels.h"

GENREC_PER_ISA(RqFault rq_encode_rows(const RqEncodeArgs& args, const RqLevel* levels, std::int64_t first,
                                      std::int64_t last, const RqScratch& scratch);
               void kmeans_distances(const KMeansStepArgs& args, const float* rows, const std::int32_t* labels,
                                     std::int64_t count, double* out);
               void kmeans_add_rows(const KMeansStepArgs& args, const float* rows, const std::int32_t* labels,
                                    std::int64_t count);
               void kmeans_add_columns(const KMeansStepArgs& args, std::int64_t first, std::int64_t last);)

namespace genrec {
namespace {

constexpr std::int64_t blocks_per_task = 16;
constexpr std::int64_t columns_per_task = 64;  // 256 bytes of a row: several cache lines, so that reading ahead pays
constexpr std::int64_t summed_rows = 1024;     // as in ops/reference/kmeans_step.py

double lane_sum(const double* values, std::int64_t count) {
  constexpr int lanes = 16;
  double lane[lanes] = {};
  for (std::int64_t i = 0; i < count; ++i) lane[i % lanes] += values[i];
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

}  // namespace

void kmeans_step(const KMeansStepArgs& args) {
  if (args.num_rows == 0) return;
  const float* const books[] = {args.centroids};
  const RqSizes sizes = rq_sizes(args.depth);
  const RqEncodeArgs encode{.op = "kmeans_step",
                            .x = args.x,
                            .element = args.element,
                            .num_rows = args.num_rows,
                            .depth = args.depth,
                            .num_levels = 1,
                            .codebooks = books,
                            .num_codes = &args.num_centroids,
                            .num_beams = 1,
                            .bfloat16 = args.bfloat16,
                            .num_threads = args.num_threads,
                            .codes = args.labels};
  const RqLevels levels(books, &args.num_centroids, 1, args.depth,
                        {.op = encode.op,
                         .packed = true,
                         .bfloat16 = args.bfloat16,
                         .centred = true,
                         .first_of_equals = true,
                         .num_threads = args.num_threads});
  const std::int64_t rows_per_task = sizes.block_rows * blocks_per_task;
  const std::int64_t num_tasks = (args.num_rows + rows_per_task - 1) / rows_per_task;
  const bool alone = args.num_threads <= 1 || num_tasks == 1;
  const Memory distances(args.num_rows * 8);
  parallel_for(num_tasks, args.num_threads, [&](std::int64_t task) {
    const std::int64_t end = std::min(args.num_rows, (task + 1) * rows_per_task);
    const RqWorkspace workspace(levels, args.depth);
    const RqScratch& scratch = workspace.scratch();
    for (std::int64_t row = task * rows_per_task; row < end; row += sizes.block_rows) {
      const std::int64_t last = std::min(end, row + sizes.block_rows);
      rq_check(encode, GENREC_DISPATCH(rq_encode_rows(encode, levels.data(), row, last, scratch)));
      // The rows as float32 are still in cache: with one level, the scratch holds what was coded.
      const std::int32_t* labels = args.labels + row;
      double* out = distances.as<double>() + row;
      GENREC_DISPATCH(kmeans_distances(args, scratch.residual, labels, last - row, out));
      if (alone) GENREC_DISPATCH(kmeans_add_rows(args, scratch.residual, labels, last - row));
    }
  });
  if (!alone)  // every thread takes columns of its own, never rows: each sum adds in the order of the rows
    parallel_for((args.depth + columns_per_task - 1) / columns_per_task, args.num_threads, [&](std::int64_t task) {
      const std::int64_t first = task * columns_per_task, last = std::min(args.depth, first + columns_per_task);
      GENREC_DISPATCH(kmeans_add_columns(args, first, last));
    });
  for (std::int64_t n = 0; n < args.num_rows; ++n) ++args.counts[args.labels[n]];
  for (std::int64_t n = 0; n < args.num_rows; n += summed_rows)
    *args.inertia += lane_sum(distances.as<double>() + n, std::min(summed_rows, args.num_rows - n));
}

}  // namespace genrec
