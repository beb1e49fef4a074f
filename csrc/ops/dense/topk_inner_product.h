// The k largest inner products of every query with the rows of a table, without a matrix of scores.
#pragma once
#include <cstdint>

namespace genrec {

struct TopkArgs {
  const float* queries;  // [num_queries, depth]
  std::int64_t num_queries;
  const float* table;  // [num_items, depth]
  std::int64_t num_items, depth;
  const float* bias;  // [num_items], finite, or null
  std::int64_t k;     // at least 1
  // Item n may be found by query b where allowed[b * allowed_stride + n] != 0; null: every item.
  const std::uint8_t* allowed;
  std::int64_t allowed_stride;
  // Ascending ids exclude_ids[exclude_offsets[b] .. exclude_offsets[b + 1]) are not found by query b; null: none.
  const std::int64_t* exclude_offsets;  // [num_queries + 1]
  const std::int64_t* exclude_ids;
  std::int64_t num_excluded;  // of exclude_ids
  int num_threads;
  float* scores;      // out [num_queries, k], -infinity behind the last
  std::int64_t* ids;  // out [num_queries, k], -1 behind the last
};

// score(b, n) = float32(sum_d queries[b][d] * table[n][d] + bias[n]), in float64: products exact, sums in 16 lanes.
//
// Order: higher score, then lower id. Which items can win is decided by float32 products with a bound on their error
// (core/gemm.h: sum_error); those are scored as defined, so the result has equal bits on every instruction set.
// Throws ValueError where a query or a row of the table is not finite, or offsets of the excluded ids are none.
// Cost: num_queries * num_items * depth multiply-adds; the table is read once per 512 queries and thread, and never
// copied; memory: about 2 k + 64 entries per query and thread.
void topk_inner_product(const TopkArgs& args);

// One query's best so far.
struct TopkEntry {
  float score;  // within the bound of the defined one
  std::int32_t id;
};
struct TopkQuery {
  TopkEntry* entries;
  std::int64_t count;
  float norm;                   // |query|, not below
  float kth;                    // the k-th best score when `entries` was last compacted
  bool full;                    // it had k
  const std::uint8_t* allowed;  // of this query, or null
  const std::int64_t* exclude;  // of this query, ascending
  std::int64_t num_excluded;
};

// Some queries against some items, by one thread.
struct TopkScan {
  const TopkArgs* args;
  std::int64_t first_query, num_queries;
  const float* panels;          // the queries, packed
  float* thresholds;            // [queries, whole panels]: nothing that is not above can win; NaN: everything may
  TopkQuery* queries;           // [num_queries]
  std::int64_t capacity;        // of each query's entries
  float error_scale;            // of a float32 sum
  float longest, largest_bias;  // of the items so far: |row|, |bias|, not below
  void (*compact)(TopkScan& scan, std::int64_t query);  // makes room among a query's entries
  void (*grown)(TopkScan& scan);                        // longest or largest_bias grew: the thresholds follow
};

}  // namespace genrec
