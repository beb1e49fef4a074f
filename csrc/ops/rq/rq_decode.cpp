#include "ops/rq/rq_decode.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(RqDecodeFault rq_decode_rows(const RqDecodeArgs& args, std::int64_t first, std::int64_t last,
                                            const float** chosen);)

namespace genrec {
namespace {

constexpr std::int64_t additions_per_task = 1 << 19;  // about 100 us

std::int64_t code_at(const RqDecodeArgs& args, std::int64_t at) {
  return args.code_size == 4 ? static_cast<const std::int32_t*>(args.codes)[at]
                             : static_cast<const std::int64_t*>(args.codes)[at];
}

}  // namespace

void rq_decode(const RqDecodeArgs& args, int num_threads) {
  const std::int64_t rows_per_task =
      std::max<std::int64_t>(1, additions_per_task / std::max<std::int64_t>(1, args.depth * args.num_levels));
  const std::int64_t num_tasks = (args.num_rows + rows_per_task - 1) / rows_per_task;
  ask_huge_pages(args.out, args.num_rows * args.depth * 4);  // fresh 36 MiB on a busy core: 26 ms, with small pages 110
  parallel_for(num_tasks, num_threads, [&](std::int64_t task) {
    std::vector<const float*> chosen(static_cast<std::size_t>(args.num_levels));
    const std::int64_t first = task * rows_per_task, last = std::min(first + rows_per_task, args.num_rows);
    const RqDecodeFault fault = GENREC_DISPATCH(rq_decode_rows(args, first, last, chosen.data()));
    if (fault < 0) return;
    const std::int64_t level = fault % args.num_levels;
    throw ValueError(message("rq_decode: codes of level ", level, " must be in [0, ", args.num_codes[level], "), got ",
                             code_at(args, fault), " in row ", fault / args.num_levels));
  });
}

}  // namespace genrec
