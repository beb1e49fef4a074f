#include "ops/codes/topk_code_sums.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(std::int64_t code_scan(CodeScan& scan, std::int64_t first, std::int64_t last);)

namespace genrec {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float lowest = std::numeric_limits<float>::lowest();
// So many users go one by one: a pass of sixteen costs as much whether they are there or not (32 levels of 256, two
// users one by one and side by side: 12,101 items 0.75 and 0.55 ms, 200,000 items 6.8 and 8.4 ms; three 1.05 and 0.57
// ms, 10.4 and 8.6 ms).
constexpr std::int64_t few_users = 1;

void compact(CodeScan& scan, std::int64_t user) {
  CodeBest& best = scan.best[user];
  std::nth_element(best.entries, best.entries + (scan.k - 1), best.entries + best.count, better);
  best.count = scan.k;
  // Ids ascend: what comes later and scores the same is worse.
  set_bars(best, std::nextafter(best.entries[scan.k - 1].score, infinity), scan.rests + user * (scan.num_bars + 1),
           scan.num_bars);
}

void check_exclude(const TopkCodeSums& args) {
  if (!args.exclude_offsets) return;
  const std::int64_t *offsets = args.exclude_offsets, users = args.sums.num_users;
  check(offsets[0] == 0, "topk_code_sums: exclude's offsets must start at 0, got ", offsets[0]);
  for (std::int64_t b = 0; b < users; ++b)
    check(offsets[b] <= offsets[b + 1], "topk_code_sums: exclude's offsets must not decrease, but do after row ", b);
  check(offsets[users] == args.num_excluded, "topk_code_sums: exclude's offsets must end at ", args.num_excluded,
        ", got ", offsets[users]);
}

// Users [first_user, last_user), at most code_lanes, with items [first, last): each user's best k into found[user * k].
void scan_part(const TopkCodeSums& args, std::int64_t first_user, std::int64_t last_user, std::int64_t first,
               std::int64_t last, CodeEntry* found, std::int64_t* counts) {
  const CodeSums& sums = args.sums;
  const std::int64_t users = last_user - first_user, width = sums.width, num_bars = sums.num_levels / check_levels;
  const std::int64_t capacity = std::min(2 * args.k + 16, std::max(args.k, last - first) + 1);
  const bool beside = users > few_users;
  const Memory entries(users * capacity * static_cast<std::int64_t>(sizeof(CodeEntry)));
  const Memory turned(beside ? width * code_lanes * 4 : 0);
  std::vector<float> bars(static_cast<std::size_t>((num_bars + 1) * code_lanes), infinity);
  std::vector<double> rests(static_cast<std::size_t>(users * (num_bars + 1)));
  std::vector<CodeBest> best(static_cast<std::size_t>(users));
  for (std::int64_t u = 0; u < users; ++u) {
    const std::int64_t b = first_user + u;
    const std::int64_t from = args.exclude_offsets ? args.exclude_offsets[b] : 0;
    CodeBest& own = best[static_cast<std::size_t>(u)];
    own = {.entries = entries.as<CodeEntry>() + u * capacity,
           .count = 0,
           .capacity = capacity,
           .bars = bars.data() + u,
           .stride = code_lanes,
           .allowed = args.allowed ? args.allowed + b * args.allowed_stride : nullptr,
           .exclude = args.exclude_ids ? args.exclude_ids + from : nullptr,
           .num_excluded = args.exclude_offsets ? args.exclude_offsets[b + 1] - from : 0};
    double* const rest = rests.data() + u * (num_bars + 1);
    code_rests(sums, sums.logprobs + b * width, num_bars, rest);
    set_bars(own, -infinity, rest, num_bars);
    own.bars[num_bars * code_lanes] = lowest;
  }
  if (beside) {
    float* out = turned.as<float>();
    std::fill_n(out, width * code_lanes, 0.0f);
    for (std::int64_t u = 0; u < users; ++u) {
      const float* row = sums.logprobs + (first_user + u) * width;
      for (std::int64_t at = 0; at < width; ++at) out[at * code_lanes + u] = row[at];
    }
  }
  CodeScan scan{.sums = &sums,
                .first_user = first_user,
                .num_users = users,
                .k = args.k,
                .best = best.data(),
                .rests = rests.data(),
                .num_bars = num_bars,
                .turned = beside ? turned.as<float>() : nullptr,
                .bars = bars.data(),
                .compact = compact};
  const std::int64_t wrong = GENREC_DISPATCH(code_scan(scan, first, last));
  if (wrong >= 0) refuse_codes("topk_code_sums", sums, wrong, last);
  for (std::int64_t u = 0; u < users; ++u) {
    const CodeBest& own = best[static_cast<std::size_t>(u)];
    counts[u] = std::min(own.count, args.k);
    std::partial_sort(own.entries, own.entries + counts[u], own.entries + own.count, better);
    std::copy_n(own.entries, counts[u], found + u * args.k);
  }
}

}  // namespace

void topk_code_sums(const TopkCodeSums& args) {
  const CodeSums& sums = args.sums;
  check_logprobs("topk_code_sums", sums);
  check_exclude(args);
  std::fill_n(args.scores, sums.num_users * args.k, -infinity);
  std::fill_n(args.ids, sums.num_users * args.k, std::int64_t{-1});
  if (sums.num_users == 0 || sums.num_items == 0) return;
  const bool worth = static_cast<double>(sums.num_users) * static_cast<double>(sums.num_items) *
                         static_cast<double>(sums.num_levels) >=
                     1e6;  // some 200 us of one thread
  const std::int64_t threads = worth ? std::max(1, args.num_threads) : 1;
  const std::int64_t groups = (sums.num_users + code_lanes - 1) / code_lanes;
  const std::int64_t ranges = std::min(std::max<std::int64_t>(1, threads / groups), (sums.num_items + 255) / 256);
  const Memory found(sums.num_users * ranges * args.k * static_cast<std::int64_t>(sizeof(CodeEntry)));
  std::vector<std::int64_t> counts(static_cast<std::size_t>(sums.num_users * ranges));
  parallel_for(groups * ranges, static_cast<int>(threads), [&](std::int64_t task) {
    const std::int64_t range = task / groups, group = task % groups;
    const std::int64_t from = sums.num_users * group / groups, until = sums.num_users * (group + 1) / groups;
    const std::int64_t at = range * sums.num_users + from;
    scan_part(args, from, until, sums.num_items * range / ranges, sums.num_items * (range + 1) / ranges,
              found.as<CodeEntry>() + at * args.k, counts.data() + at);
  });
  std::vector<CodeEntry> all;
  for (std::int64_t b = 0; b < sums.num_users; ++b) {
    all.clear();
    for (std::int64_t range = 0; range < ranges; ++range) {
      const std::int64_t at = range * sums.num_users + b;
      const CodeEntry* own = found.as<CodeEntry>() + at * args.k;
      all.insert(all.end(), own, own + counts[static_cast<std::size_t>(at)]);
    }
    if (ranges > 1) std::sort(all.begin(), all.end(), better);
    const auto kept = std::min<std::int64_t>(args.k, static_cast<std::int64_t>(all.size()));
    for (std::int64_t i = 0; i < kept; ++i) {
      args.scores[b * args.k + i] = all[static_cast<std::size_t>(i)].score;
      args.ids[b * args.k + i] = all[static_cast<std::size_t>(i)].id;
    }
  }
}

}  // namespace genrec
