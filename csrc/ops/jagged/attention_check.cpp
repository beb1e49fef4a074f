#include "ops/jagged/attention_check.h"

#include <algorithm>

#include "core/check.h"
#include "ops/jagged/offsets.h"

namespace genrec {
namespace {

constexpr std::int64_t farthest = std::int64_t{1} << 62;

std::int64_t length(const std::int64_t* offsets, std::int64_t row) { return offsets[row + 1] - offsets[row]; }

void check_times(const char* name, const std::int64_t* times, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    check(-farthest < times[i] && times[i] < farthest, "jagged_attention: ", name,
          " of the bias must be below 2^62, got ", times[i], " at ", i);
}

// What the kernels read through, but for the values in it.
void check_shapes(const AttentionArgs& args) {
  check(args.num_heads >= 1 && args.width >= 1 && args.value_width >= 1,
        "jagged_attention: q, k and v must have at least one head and channel, got ", args.num_heads, ", ", args.width,
        " and ", args.value_width);
  check(args.offsets && args.kv_offsets && args.num_rows >= 0, "jagged_attention: offsets must be [B + 1], got none");
  check(args.target_group_size >= 1 && args.contextual_seq_len >= 0 && args.max_attn_len >= 0 &&
            args.min_full_attn_seq_len >= 0 && args.max_seq_len >= 0,
        "jagged_attention: limits must be at least 0, and groups of at least 1, got ", args.target_group_size, ", ",
        args.contextual_seq_len, ", ", args.max_attn_len, ", ", args.min_full_attn_seq_len, " and ", args.max_seq_len);
  check(args.dropout >= 0 && args.dropout < 1, "jagged_attention: dropout_p must be in [0, 1), got ", args.dropout);
  check(!args.distance || ((args.distance_heads == 1 || args.distance_heads == args.num_heads) &&
                           args.distance_size >= 1 && args.distance_size % 2 == 1),
        "jagged_attention: bias must have 2M - 1 distances for one or all of ", args.num_heads, " heads, got ",
        args.distance_size, " for ", args.distance_heads);
  check(!args.time || ((args.time_heads == 1 || args.time_heads == args.num_heads) &&
                       args.num_thresholds < args.time_size && args.num_thresholds < 65536 &&
                       (args.key_times || args.num_keys == 0) && (args.thresholds || args.num_thresholds == 0)),
        "jagged_attention: bias must have times, and one time weight more than thresholds, for one or all of ",
        args.num_heads, " heads, got ", args.time_size, " weights, ", args.num_thresholds, " thresholds and ",
        args.time_heads, " heads");
}

}  // namespace

AttentionArgs bounded(AttentionArgs args) {
  constexpr std::int64_t most = std::int64_t{1} << 31;
  for (std::int64_t* limit :
       {&args.target_group_size, &args.max_attn_len, &args.min_full_attn_seq_len, &args.contextual_seq_len})
    *limit = std::min(*limit, most);
  return args;
}

std::int64_t check_attention(const AttentionArgs& args) {
  check_shapes(args);
  check_offsets("jagged_attention", "offsets", args.offsets, args.num_rows, args.num_queries);
  check_offsets("jagged_attention", "kv_offsets", args.kv_offsets, args.num_rows, args.num_keys);
  const bool masked = args.causal || args.num_targets || args.contextual_seq_len || args.max_attn_len;
  std::int64_t longest = 0, longest_query = 0;
  for (std::int64_t row = 0; row < args.num_rows; ++row) {
    const std::int64_t queries = length(args.offsets, row), keys = length(args.kv_offsets, row);
    longest = std::max(longest, keys);
    longest_query = std::max(longest_query, queries);
    check(!masked || queries <= keys,
          "jagged_attention: offsets must give no row more queries than keys under a mask, got ", queries, " and ",
          keys, " in row ", row);
    const std::int64_t targets = args.num_targets ? args.num_targets[row] : 0;
    check(targets >= 0 && targets <= keys && (keys == 0 || args.contextual_seq_len <= keys - targets),
          "jagged_attention: num_targets must be at least 0 and leave room for contextual_seq_len = ",
          args.contextual_seq_len, " in a row, got ", targets, " for ", keys, " positions in row ", row);
  }
  check(longest < (std::int64_t{1} << 31) - 64, "jagged_attention: kv_offsets must give rows below 2^31, got ",
        longest);
  check(!args.max_seq_len || longest <= args.max_seq_len,
        "jagged_attention: max_seq_len must be at least the longest row, ", longest, ", got ", args.max_seq_len);
  if (args.distance) {
    const std::int64_t room = args.distance_size / 2 + 1, needed = std::max(longest, longest_query);
    check(needed <= room, "jagged_attention: bias must have a table for rows of ", needed, ", got one for ", room);
  }
  if (args.time) {
    check_times("timestamps", args.key_times, args.num_keys);
    if (args.query_times) check_times("query_timestamps", args.query_times, args.num_queries);
    for (std::int64_t i = 0; i < args.num_thresholds; ++i)
      check(args.thresholds[i] > 0 && args.thresholds[i] <= farthest &&
                (i == 0 || args.thresholds[i - 1] <= args.thresholds[i]),
            "jagged_attention: thresholds of the bias must be above 0, at most 2^62 and not decrease, got ",
            args.thresholds[i], " at ", i);
  }
  return longest;
}

}  // namespace genrec
