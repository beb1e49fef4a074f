#include "ops/dense/topk_inner_product.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(std::int64_t topk_panel_width();
               void topk_pack(const float* queries, std::int64_t count, std::int64_t depth, float* panels);
               float topk_error_scale(std::int64_t depth); float topk_norm(const float* x, std::int64_t depth);
               void topk_exact(const TopkArgs& args, const float* query, TopkEntry* entries, std::int64_t count);
               std::int64_t topk_scan(TopkScan& scan, std::int64_t first, std::int64_t last);)

namespace genrec {
namespace {

constexpr std::int64_t most_queries = 512;  // of one scan: their entries and panels stay in the caches
constexpr float infinity = std::numeric_limits<float>::infinity();

// Above this, a float32 sum may overflow, and says nothing.
constexpr float largest_regular = 1e37f;

bool better(const TopkEntry& a, const TopkEntry& b) { return a.score != b.score ? a.score > b.score : a.id < b.id; }

// Not below the distance of an entry's score from the defined one; infinity where there is no bound.
float error_of(const TopkScan& scan, const TopkQuery& query) {
  const float size = query.norm * scan.longest + scan.largest_bias;
  if (!(size < largest_regular)) return infinity;
  const float depth = static_cast<float>(scan.args->depth);
  // The product's rounding, the defined score's own, a threshold's; subnormal numbers may be lost.
  return 1.01f * ((scan.error_scale + 0x1p-22f) * size + 1.2e-38f * depth * (1.0f + query.norm + scan.longest));
}

void set_threshold(TopkScan& scan, std::int64_t number) {
  const TopkQuery& query = scan.queries[number];
  const float error = error_of(scan, query);
  // k entries score at least kth - error; what lies below kth - 2 error as a product lies below them.
  scan.thresholds[number] =
      query.full && error < infinity ? query.kth - 2.0f * error : std::numeric_limits<float>::quiet_NaN();
}

void set_thresholds(TopkScan& scan) {
  for (std::int64_t number = 0; number < scan.num_queries; ++number) set_threshold(scan, number);
}

void score_entries(const TopkScan& scan, std::int64_t number) {
  const TopkQuery& query = scan.queries[number];
  const float* x = scan.args->queries + (scan.first_query + number) * scan.args->depth;
  GENREC_DISPATCH(topk_exact(*scan.args, x, query.entries, query.count));
}

// Drops what cannot be among the best k by the products alone.
void prune(const TopkScan& scan, TopkQuery& query) {
  const std::int64_t k = scan.args->k;
  const float error = error_of(scan, query);
  if (query.count <= k || !(error < infinity)) return;
  TopkEntry* const begin = query.entries;
  std::nth_element(begin, begin + (k - 1), begin + query.count, better);
  query.kth = begin[k - 1].score;
  query.full = true;
  const float least = query.kth - 2.0f * error;
  query.count =
      std::partition(begin + k, begin + query.count, [&](const TopkEntry& e) { return e.score >= least; }) - begin;
}

void keep_best(const TopkScan& scan, std::int64_t number) {
  TopkQuery& query = scan.queries[number];
  const std::int64_t k = scan.args->k;
  score_entries(scan, number);
  if (query.count < k) return;
  std::nth_element(query.entries, query.entries + (k - 1), query.entries + query.count, better);
  query.kth = query.entries[k - 1].score;
  query.full = true;
  query.count = k;
}

void compact(TopkScan& scan, std::int64_t number) {
  TopkQuery& query = scan.queries[number];
  prune(scan, query);
  // Many that are as good as equal: score them.
  if (query.count > scan.capacity - (scan.capacity - scan.args->k) / 2) keep_best(scan, number);
  set_threshold(scan, number);
}

// The best k of the entries, in order, as defined.
void finish(const TopkScan& scan, std::int64_t number) {
  TopkQuery& query = scan.queries[number];
  prune(scan, query);
  score_entries(scan, number);
  const std::int64_t kept = std::min(query.count, scan.args->k);
  std::partial_sort(query.entries, query.entries + kept, query.entries + query.count, better);
  query.count = kept;
}

void check_queries(const TopkArgs& args) {
  for (std::int64_t b = 0; b < args.num_queries; ++b) {
    const float* x = args.queries + b * args.depth;
    if (GENREC_DISPATCH(topk_norm(x, args.depth)) < infinity) continue;  // else: or squares that overflow
    check(std::all_of(x, x + args.depth, [](float value) { return std::isfinite(value); }),
          "topk_inner_product: queries must be finite, got NaN or infinity in row ", b);
  }
}

void check_exclude(const TopkArgs& args) {
  if (!args.exclude_offsets) return;
  const std::int64_t* offsets = args.exclude_offsets;
  check(offsets[0] == 0, "topk_inner_product: exclude's offsets must start at 0, got ", offsets[0]);
  for (std::int64_t b = 0; b < args.num_queries; ++b)
    check(offsets[b] <= offsets[b + 1], "topk_inner_product: exclude's offsets must not decrease, but do after row ",
          b);
  check(offsets[args.num_queries] == args.num_excluded, "topk_inner_product: exclude's offsets must end at ",
        args.num_excluded, ", got ", offsets[args.num_queries]);
}

// Queries [first_query, last_query) with items [first, last): each query's best k into entries[query * k ...].
void scan_part(const TopkArgs& args, std::int64_t first_query, std::int64_t last_query, std::int64_t first,
               std::int64_t last, TopkEntry* found, std::int64_t* counts) {
  const std::int64_t count = last_query - first_query, depth = args.depth;
  const std::int64_t width = GENREC_DISPATCH(topk_panel_width()), padded = (count + width - 1) / width * width;
  const std::int64_t capacity = std::min(2 * args.k + 16, std::max(args.k, last - first) + 1);
  const Memory panels(padded * depth * 4), thresholds(padded * 4);
  const Memory entries(count * capacity * static_cast<std::int64_t>(sizeof(TopkEntry)));
  std::vector<TopkQuery> queries(static_cast<std::size_t>(count));
  TopkScan scan{.args = &args,
                .first_query = first_query,
                .num_queries = count,
                .panels = panels.as<float>(),
                .thresholds = thresholds.as<float>(),
                .queries = queries.data(),
                .capacity = capacity,
                .error_scale = GENREC_DISPATCH(topk_error_scale(depth)),
                .longest = 0.0f,
                .largest_bias = 0.0f,
                .compact = compact,
                .grown = set_thresholds};
  const float* x = args.queries + first_query * depth;
  GENREC_DISPATCH(topk_pack(x, count, depth, panels.as<float>()));
  std::fill_n(thresholds.as<float>(), padded, infinity);
  for (std::int64_t q = 0; q < count; ++q) {
    const std::int64_t b = first_query + q;
    const std::int64_t from = args.exclude_offsets ? args.exclude_offsets[b] : 0;
    queries[static_cast<std::size_t>(q)] = {
        .entries = entries.as<TopkEntry>() + q * capacity,
        .count = 0,
        .norm = GENREC_DISPATCH(topk_norm(x + q * depth, depth)),
        .kth = -infinity,
        .full = false,
        .allowed = args.allowed ? args.allowed + b * args.allowed_stride : nullptr,
        .exclude = args.exclude_ids ? args.exclude_ids + from : nullptr,
        .num_excluded = args.exclude_offsets ? args.exclude_offsets[b + 1] - from : 0};
  }
  set_thresholds(scan);
  const std::int64_t wrong = GENREC_DISPATCH(topk_scan(scan, first, last));
  check(wrong < 0, "topk_inner_product: table must be finite, got NaN or infinity in row ", wrong);
  for (std::int64_t q = 0; q < count; ++q) {
    finish(scan, q);
    counts[q] = queries[static_cast<std::size_t>(q)].count;
    std::copy_n(queries[static_cast<std::size_t>(q)].entries, counts[q], found + q * args.k);
  }
}

}  // namespace

void topk_inner_product(const TopkArgs& args) {
  check_queries(args);
  check_exclude(args);
  std::fill_n(args.scores, args.num_queries * args.k, -infinity);
  std::fill_n(args.ids, args.num_queries * args.k, std::int64_t{-1});
  if (args.num_queries == 0 || args.num_items == 0) return;
  const bool worth =
      static_cast<double>(args.num_queries) * static_cast<double>(args.num_items) * static_cast<double>(args.depth) >=
      8e6;  // some 200 us of one thread
  const std::int64_t threads = worth ? std::max(1, args.num_threads) : 1;
  const std::int64_t groups =
      std::max((args.num_queries + most_queries - 1) / most_queries, std::min(threads, args.num_queries / 64));
  const std::int64_t ranges = std::min(std::max<std::int64_t>(1, threads / groups), (args.num_items + 63) / 64);
  // A range holds at most k results per query; those of all ranges are merged.
  const Memory found(args.num_queries * ranges * args.k * static_cast<std::int64_t>(sizeof(TopkEntry)));
  std::vector<std::int64_t> counts(static_cast<std::size_t>(args.num_queries * ranges));
  parallel_for(groups * ranges, static_cast<int>(threads), [&](std::int64_t task) {
    const std::int64_t range = task / groups, group = task % groups;
    const std::int64_t from = args.num_queries * group / groups, until = args.num_queries * (group + 1) / groups;
    if (from == until) return;
    const std::int64_t at = range * args.num_queries + from;
    scan_part(args, from, until, args.num_items * range / ranges, args.num_items * (range + 1) / ranges,
              found.as<TopkEntry>() + at * args.k, counts.data() + at);
  });
  std::vector<TopkEntry> all;
  for (std::int64_t b = 0; b < args.num_queries; ++b) {
    all.clear();
    for (std::int64_t range = 0; range < ranges; ++range) {
      const std::int64_t at = range * args.num_queries + b;
      const TopkEntry* own = found.as<TopkEntry>() + at * args.k;
      all.insert(all.end(), own, own + counts[static_cast<std::size_t>(at)]);
    }
    if (ranges > 1) std::sort(all.begin(), all.end(), better);
    const auto kept = std::min<std::int64_t>(args.k, static_cast<std::int64_t>(all.size()));
    for (std::int64_t i = 0; i < kept; ++i) {
      const TopkEntry& entry = all[static_cast<std::size_t>(i)];
      if (!(entry.score > -infinity)) break;
      args.scores[b * args.k + i] = entry.score;
      args.ids[b * args.k + i] = entry.id;
    }
  }
}

}  // namespace genrec
