#include "ops/rq/rq_beams.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/rq/rq_levels.h"

GENREC_PER_ISA(void rq_table(const RqLevel& first, const RqLevel& second, std::int64_t depth, std::int64_t from,
                             std::int64_t until, float* products);
               RqFault rq_beam_rows(const RqEncodeArgs& args, const RqLevel* levels, const RqTables& tables,
                                    std::int64_t first, std::int64_t last, const RqBeamScratch& scratch);)

namespace genrec {
namespace {

constexpr std::int64_t most_table_bytes = std::int64_t{64} << 20;
constexpr std::int64_t blocks_per_task = 8, codes_per_task = 256;

struct Tables {
  Memory memory;
  std::vector<const float*> products;
  std::vector<std::int64_t> columns;
};

// Products of every level's codes with those of later levels; none where they would take too much.
Tables tables_of(const RqEncodeArgs& args, const RqLevels& levels, std::int64_t panel_width) {
  Tables tables;
  std::int64_t bytes = 0;
  for (int l = 0; l < args.num_levels; ++l) {
    tables.columns.push_back((args.num_codes[l] + panel_width - 1) / panel_width * panel_width);
    for (int j = 0; j < l && bytes <= most_table_bytes; ++j) bytes += 4 * args.num_codes[j] * tables.columns.back();
  }
  if (bytes > most_table_bytes || args.num_levels > rq_most_tabled) return tables;
  struct Task {
    int j, l;
    std::int64_t from;
    float* products;
  };
  std::vector<Task> tasks;
  tables.memory = Memory(bytes);
  float* next = tables.memory.as<float>();
  tables.products.resize(static_cast<std::size_t>(args.num_levels) * static_cast<std::size_t>(args.num_levels));
  for (int l = 0; l < args.num_levels; ++l)
    for (int j = 0; j < l; ++j) {
      tables.products[static_cast<std::size_t>(j * args.num_levels + l)] = next;
      for (std::int64_t from = 0; from < args.num_codes[j]; from += codes_per_task) tasks.push_back({j, l, from, next});
      next += args.num_codes[j] * tables.columns[static_cast<std::size_t>(l)];
    }
  parallel_for(static_cast<std::int64_t>(tasks.size()), args.num_threads, [&](std::int64_t t) {
    const Task& task = tasks[static_cast<std::size_t>(t)];
    const std::int64_t until = std::min(task.from + codes_per_task, args.num_codes[task.j]);
    GENREC_DISPATCH(
        rq_table(levels.data()[task.j], levels.data()[task.l], args.depth, task.from, until, task.products));
  });
  return tables;
}

}  // namespace

void rq_beams(const RqEncodeArgs& args) {
  const std::int64_t depth = args.depth, width = args.num_beams, num_levels = args.num_levels;
  const RqSizes sizes = rq_sizes(depth);
  // Equal codes may both be kept: each is a beam.
  const RqLevels levels(args.codebooks, args.num_codes, args.num_levels, depth,
                        {.op = args.op,
                         .packed = true,
                         .bfloat16 = false,
                         .centred = false,
                         .first_of_equals = false,
                         .num_threads = args.num_threads});
  const Tables kept = tables_of(args, levels, sizes.panel_width);
  const RqTables tables{kept.products.empty() ? nullptr : kept.products.data(), kept.columns.data()};
  const bool tabled = tables.products != nullptr;
  // About 4096 beams at a time, and without tables few enough that their residuals stay in the second cache.
  const std::int64_t room = tabled ? std::min(sizes.block_rows, 4096 / width) : sizes.block_rows / width;
  const std::int64_t block = std::clamp<std::int64_t>(room, 1, rq_block_rows);
  const std::int64_t chunk = std::min(sizes.chunk, levels.most_columns()), capacity = 4 * width + 128;
  const std::int64_t rows_per_task = block * blocks_per_task;
  parallel_for((args.num_rows + rows_per_task - 1) / rows_per_task, args.num_threads, [&](std::int64_t task) {
    const std::int64_t end = std::min(args.num_rows, (task + 1) * rows_per_task);
    const Memory x(block * depth * 4), residual((tabled ? width : block * width) * depth * 4);
    const Memory scores((tabled ? block : block * width) * chunk * 4), own(width * 8), made(width);
    const Memory codes0(block * width * num_levels * 4), codes1(block * width * num_levels * 4);
    const Memory scores0(block * width * 4), scores1(block * width * 4), top(block * width * 4);
    const Memory candidates(block * capacity * static_cast<std::int64_t>(sizeof(RqCandidate)));
    const RqBeamScratch scratch{block,
                                chunk,
                                capacity,
                                x.as<float>(),
                                scores.as<float>(),
                                residual.as<float>(),
                                own.as<double>(),
                                made.as<std::uint8_t>(),
                                {codes0.as<std::int32_t>(), codes1.as<std::int32_t>()},
                                {scores0.as<float>(), scores1.as<float>()},
                                top.as<float>(),
                                candidates.as<RqCandidate>()};
    for (std::int64_t row = task * rows_per_task; row < end; row += block) {
      const std::int64_t last = std::min(end, row + block);
      rq_check(args, GENREC_DISPATCH(rq_beam_rows(args, levels.data(), tables, row, last, scratch)));
    }
  });
}

}  // namespace genrec
