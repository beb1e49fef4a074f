#include "ops/graph/graph_step.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(std::int64_t graph_gather(const std::int32_t* rows, std::int64_t count, std::int64_t num_items,
                                         std::uint64_t* seen, std::int32_t* found, std::int64_t* num_found);
               std::int64_t graph_score(CodeScan& scan, const std::int32_t* ids, std::int64_t count);)

namespace genrec {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Users [first, last) by one thread.
struct Walk {
  const GraphStep& args;
  std::int64_t num_bars, capacity;
  Memory seen, found, entries;
  std::vector<float> bars;
  std::vector<double> rests;

  explicit Walk(const GraphStep& given)
      : args(given),
        num_bars(given.sums.num_levels / check_levels),
        capacity(std::min(2 * given.num_beams + 16, std::max(given.num_beams, most_found()) + 1)),
        seen((given.sums.num_items + 63) / 64 * 8),
        found(most_found() * 4),
        entries(capacity * static_cast<std::int64_t>(sizeof(CodeEntry))),
        bars(static_cast<std::size_t>(num_bars + 1)),
        rests(static_cast<std::size_t>(num_bars + 1)) {
    std::fill_n(seen.as<std::uint64_t>(), (given.sums.num_items + 63) / 64, std::uint64_t{0});
  }

  std::int64_t most_found() const { return std::min(args.sums.num_items, args.num_from * args.num_edges); }

  void user(std::int64_t b);
};

void compact(CodeScan& scan, std::int64_t user) {
  CodeBest& best = scan.best[user];
  std::nth_element(best.entries, best.entries + (scan.k - 1), best.entries + best.count, better);
  best.count = scan.k;
  set_bars(best, best.entries[scan.k - 1].score, scan.rests, scan.num_bars);
}

void Walk::user(std::int64_t b) {
  const CodeSums& sums = args.sums;
  const std::int32_t* from = args.items + b * args.num_from;
  auto* const marks = seen.as<std::uint64_t>();
  auto* const ids = found.as<std::int32_t>();
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < args.num_from; ++i) {
    const std::int64_t item = from[i];
    check(item >= -1 && item < sums.num_items, "graph_step: items must be in [-1, ", sums.num_items, "), got ", item,
          " for user ", b);
    if (item < 0) continue;
    const std::int32_t* row = args.neighbours + item * args.num_edges;
    const std::int64_t wrong = GENREC_DISPATCH(graph_gather(row, args.num_edges, sums.num_items, marks, ids, &count));
    check(wrong < 0, "graph_step: neighbours must be in [-1, ", sums.num_items, "), got ", wrong < 0 ? 0 : row[wrong],
          " for item ", item);
  }
  for (std::int64_t i = 0; i < count; ++i) marks[ids[i] >> 6] = 0;
  CodeBest best{.entries = entries.as<CodeEntry>(),
                .count = 0,
                .capacity = capacity,
                .bars = bars.data(),
                .stride = 1,
                .allowed = nullptr,
                .exclude = nullptr,
                .num_excluded = 0};
  code_rests(sums, sums.logprobs + b * sums.width, num_bars, rests.data());
  set_bars(best, -infinity, rests.data(), num_bars);
  best.bars[num_bars] = std::numeric_limits<float>::lowest();
  CodeScan scan{.sums = &sums,
                .first_user = b,
                .num_users = 1,
                .k = args.num_beams,
                .best = &best,
                .rests = rests.data(),
                .num_bars = num_bars,
                .turned = nullptr,
                .bars = nullptr,
                .compact = compact};
  const std::int64_t wrong = GENREC_DISPATCH(graph_score(scan, ids, count));
  if (wrong >= 0) refuse_codes("graph_step", sums, wrong, wrong + 1);
  const std::int64_t kept = std::min(best.count, args.num_beams);
  std::partial_sort(best.entries, best.entries + kept, best.entries + best.count, better);
  for (std::int64_t i = 0; i < kept; ++i) {
    args.scores[b * args.num_beams + i] = best.entries[i].score;
    args.reached[b * args.num_beams + i] = best.entries[i].id;
  }
  args.num_seen[b] = static_cast<std::int32_t>(count);
}

}  // namespace

void graph_step(const GraphStep& args) {
  const CodeSums& sums = args.sums;
  check_logprobs("graph_step", sums);
  std::fill_n(args.scores, sums.num_users * args.num_beams, -infinity);
  std::fill_n(args.reached, sums.num_users * args.num_beams, -1);
  std::fill_n(args.num_seen, sums.num_users, 0);
  if (sums.num_users == 0 || sums.num_items == 0) {
    for (std::int64_t i = 0; i < sums.num_users * args.num_from; ++i)
      check(args.items[i] == -1, "graph_step: items must be -1 where there are no items, got ", args.items[i]);
    return;
  }
  const double work = static_cast<double>(sums.num_users) * static_cast<double>(args.num_from) *
                      static_cast<double>(args.num_edges) * static_cast<double>(1 + sums.num_levels / 8);
  const std::int64_t threads = work >= 1e5 ? std::max(1, args.num_threads) : 1;  // some 200 us of one thread
  // A few users a task, as every task needs a bit for each item.
  const std::int64_t tasks = std::min(sums.num_users, threads == 1 ? 1 : 4 * threads);
  parallel_for(tasks, static_cast<int>(threads), [&](std::int64_t task) {
    Walk walk(args);
    const std::int64_t until = sums.num_users * (task + 1) / tasks;
    for (std::int64_t b = sums.num_users * task / tasks; b < until; ++b) walk.user(b);
  });
}

}  // namespace genrec
