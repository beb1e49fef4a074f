#include "ops/rq/rq_encode.h"

#include <algorithm>

#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "ops/rq/rq_beams.h"
#include "ops/rq/rq_levels.h"

GENREC_PER_ISA(RqFault rq_encode_rows(const RqEncodeArgs& args, const RqLevel* levels, std::int64_t first,
                                      std::int64_t last, const RqScratch& scratch);)

namespace genrec {
namespace {

// So few rows do not repay a packed copy of every codebook: they are scored by dot products.
constexpr std::int64_t few_rows = 4;
constexpr std::int64_t blocks_per_task = 16;

}  // namespace

void rq_check(const RqEncodeArgs& args, const RqFault& fault) {
  check(fault.row < 0 || fault.level >= 0, args.op, ": x must be finite, got NaN or infinity in row ", fault.row);
  check(fault.row < 0, args.op, ": x must leave residuals within float32, got an overflow in row ", fault.row,
        " behind level ", fault.level);
}

void rq_encode(const RqEncodeArgs& args) {
  if (args.num_beams > 1) return rq_beams(args);
  const bool packed = args.num_rows > few_rows;
  const RqSizes sizes = rq_sizes(args.depth);
  const RqLevels levels(args.codebooks, args.num_codes, args.num_levels, args.depth,
                        {.op = args.op,
                         .packed = packed,
                         .bfloat16 = packed && args.bfloat16,
                         .centred = true,
                         .first_of_equals = true,
                         .num_threads = args.num_threads});
  const std::int64_t rows_per_task = sizes.block_rows * blocks_per_task;
  parallel_for((args.num_rows + rows_per_task - 1) / rows_per_task, args.num_threads, [&](std::int64_t task) {
    const std::int64_t end = std::min(args.num_rows, (task + 1) * rows_per_task);
    const RqWorkspace workspace(levels, args.depth);
    for (std::int64_t row = task * rows_per_task; row < end; row += sizes.block_rows) {
      const std::int64_t last = std::min(end, row + sizes.block_rows);
      rq_check(args, GENREC_DISPATCH(rq_encode_rows(args, levels.data(), row, last, workspace.scratch())));
    }
  });
}

}  // namespace genrec
