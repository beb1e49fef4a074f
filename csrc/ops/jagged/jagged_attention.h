// Attention over rows of unequal length, forward and backward: out[i] = sum over seen j of weight(q[i] k[j]) v[j].
#pragma once
#include <cstdint>

namespace genrec {

struct AttentionArgs {
  // [rows, num_heads, width]: element (e, h, d) at [e * stride + h * width + d], strides in elements.
  const void *q, *k, *v;
  // Of q, k, v and out: 4 (float32), or forward 2 (bfloat16, on a set that multiplies it; width and strides even).
  int element_size;
  std::int64_t q_stride, k_stride, v_stride;
  std::int64_t num_queries, num_keys;  // rows of q, and of k and v
  std::int64_t num_heads, width, value_width;
  const std::int64_t *offsets, *kv_offsets;  // [num_rows + 1], from 0 to num_queries and num_keys
  std::int64_t num_rows;
  bool softmax, causal;
  float alpha;
  std::int64_t max_seq_len;         // no row of keys may be longer; 0: no limit
  bool divide;                      // silu: by max_seq_len, or by the longest row where that is 0
  const std::int64_t* num_targets;  // [num_rows] or null
  std::int64_t target_group_size, contextual_seq_len, max_attn_len, min_full_attn_seq_len;
  const float* distance;  // [distance_heads, distance_size] or null, read at distance_size / 2 + key - query position
  std::int64_t distance_heads, distance_size;  // heads: 1 or num_heads
  const float* time;                           // [time_heads, time_size] or null
  std::int64_t time_heads, time_size;
  const std::int64_t *query_times, *key_times;  // of queries (null: each key's successor, the last its own), and keys
  const std::int64_t* thresholds;               // [num_thresholds], ascending: bucket = how many the gap reaches
  std::int64_t num_thresholds;
  double dropout;  // share of the weights that become 0, in [0, 1)
  std::uint64_t seed;
  int num_threads;
};

// Throws ValueError on what jagged_attention refuses, reads no query, key or value: for whoever computes in float64.
void jagged_attention_check(const AttentionArgs& args);

// out [num_queries, num_heads, value_width] in q's type, contiguous. log_sums: float32 [num_queries, num_heads], the
// log-sum-exp of each query's scores (-inf: it sees nothing); written with softmax alone.
// Throws ValueError on offsets, targets, times or a bias' size that break their rules, before anything is read through
// them. Cost: 2 (width + value_width) flops per pair that is seen and head; working memory linear in the longest row.
void jagged_attention(const AttentionArgs& args, void* out, float* log_sums);

struct AttentionGradients {
  const float *grad, *out;  // as `out` above; out is read with softmax alone
  const float* log_sums;
  float *q, *k, *v;        // contiguous, written
  float *distance, *time;  // of the bias tables' shapes, written; null where there is none
};

// Five products where the forward pass has two. Equal bits for equal num_threads.
void jagged_attention_backward(const AttentionArgs& args, const AttentionGradients& gradients);

// ---- between jagged_attention.cpp and the bodies

// The bodies' view of the arguments: checked, tables padded so that whole vectors may be read beyond their ends.
struct AttentionPlan {
  const AttentionArgs& args;
  float scale;                 // of silu's weights
  float kept_scale;            // 1 / (1 - dropout)
  std::uint32_t threshold;     // weights whose number is below it become 0
  const float* distance;       // at key position = query position, of head 0
  std::int64_t distance_step;  // floats from head to head, or 0
  const float* time;           // of head 0
  std::int64_t time_step;
};

struct AttentionSizes {
  std::int64_t panel_width, tile_rows;
  bool bfloat16;  // multiplies bfloat16
};

// Forward: queries [first, last) of row `row`; backward: keys [first, last) of it. Heads [head, last_head).
struct AttentionTask {
  std::int64_t row, head, last_head, first, last;
};

// The keys that a query sees, as positions: two ranges, the second behind the first (a target's own group).
struct AttentionSeen {
  std::int32_t first, last, second, end;
};

// One thread's working memory. `line` elements lie between two rows of weights, slopes or buckets.
struct AttentionScratch {
  std::int64_t line;
  AttentionSeen* seen;       // [queries of a task]
  void *keys, *values;       // packed panels: keys as columns over their width, value columns over keys
  float* weights;            // [tile_rows][line], backward [attention_query_block][line]
  std::uint16_t* rounded;    // the same as bfloat16
  std::uint16_t* buckets;    // [queries of a task][line]
  std::uint16_t* bucket_of;  // [line]
  std::int64_t* step_time;   // [line]
};

// Backward: what a block of queries and a block of keys need beside it.
struct AttentionBackwardScratch {
  AttentionScratch base;         // values: as columns over their width, like keys
  float* slopes;                 // of the loss in the scores, as weights
  float* key_rows;               // panels of key columns over keys
  float* query_rows;             // panels of query columns over queries
  float* grad_rows;              // panels of grad columns over queries
  float *key_sums, *value_sums;  // [attention_key_block][width padded to panels]
  float* time_sums;              // [4][time_size]
};

// Where a backward task adds: its own copies where several tasks would meet.
struct AttentionTaskSums {
  float* q;               // [queries of the row, num_heads, width]
  std::int64_t q_stride;  // floats from query to query
  float* distance;        // [heads of the table or 1][distance_step], at key - query position + keys of the row - 1
  std::int64_t distance_step;  // 0 where all heads share a table
  float* time;                 // [heads of the table or 1][time_size]
};

constexpr std::int64_t attention_key_block = 128, attention_query_block = 48;

}  // namespace genrec
