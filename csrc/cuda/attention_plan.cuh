// What the kernels of jagged attention know of a call: its arguments, which keys a query sees, the records of its
// tiles, dropout. The same definitions as csrc/ops/jagged/attention_seen.h and attention_rows.h have for the CPU.
#pragma once
#include "device.cuh"

namespace attention {

using Offset = long long;

// Names as in csrc/ops/jagged/jagged_attention.h; the same structure stands in ops/_cuda_jagged_attention.py.
struct Args {
  const void *q, *k, *v;  // [rows, num_heads, width]: element (e, h, d) at [e * stride + h * width + d]
  Offset q_stride, k_stride, v_stride;
  Offset num_queries, num_keys;
  int num_heads, width, value_width, num_rows;
  const Offset *offsets, *kv_offsets;
  const Offset* num_targets;
  const float* distance;
  int distance_heads, distance_size;
  const float* time;
  int time_heads, time_size;
  const Offset *query_times, *key_times, *thresholds;
  int num_thresholds;
  int softmax, causal;
  float alpha;
  Offset max_seq_len;
  int divide;
  int group, context, window, full;  // target_group_size, contextual_seq_len, max_attn_len, min_full_attn_seq_len
  unsigned dropout_threshold, seed_low, seed_high;
  float kept_scale;
  int whole_vectors;  // every row of q, k, v (and gradients) begins at a multiple of 16 bytes and is made of such
};

// Told by the first kernel to the others.
enum { status_valid, status_longest, status_poisoned, status_size };

// Queries of a row that one team of warps takes, and the keys that any of them sees: two ranges, as Seen has.
// row < 0: nothing to do; poisoned: the row breaks a rule, its results are NaN.
struct Tile {
  int row, first, poisoned;
  int from, until, second, end;
  int reserved;
};

struct Seen {
  int first, last, second, end;  // keys [first, last) and [second, end)
};

DEVICE_INLINE int smaller(int a, int b) { return a < b ? a : b; }
DEVICE_INLINE int larger(int a, int b) { return a > b ? a : b; }

// The rule of one row. Positions have ids: contextual ones share id 0, the others count up, targets share the last id.
struct SeenRule {
  int num_keys, shift, last, targets, group, window, full;
  bool causal, contextual;

  DEVICE_INLINE SeenRule(const Args& args, int row, int keys) {
    num_keys = keys;
    contextual = args.context > 0;
    shift = contextual ? smaller(args.context, keys + 1) - 1 : 0;
    targets = args.num_targets ? static_cast<int>(args.num_targets[row]) : 0;
    last = num_keys - shift - targets;
    // Limits beyond the row mean the same as its length, which no sum of positions overflows.
    group = smaller(args.group, larger(keys, 1));
    window = smaller(args.window, keys);
    full = smaller(args.full, keys + 1);
    causal = args.causal != 0;
  }

  // The first position whose id is at least x.
  DEVICE_INLINE int position(int x) const {
    if (x <= 0) return 0;
    if (targets && x > last) return num_keys;
    return smaller(x + shift, num_keys);
  }

  DEVICE_INLINE Seen seen(int query) const {
    int id = larger(query - shift, 0);
    if (targets) id = smaller(id, last);
    const bool target = targets && query >= num_keys - targets;
    const bool near = window > 0 && !(full > 0 && id >= last - full);
    int from = near ? position(id - window) : 0, until = position(id);
    int own = query, own_end = query + 1;
    if (!causal) until = near ? position(id + window + 1) : num_keys;
    if (target) {
      const int begin = num_keys - targets;
      if (!causal) until = begin;  // nothing has a higher id than a target
      if (group > 1) {
        own = begin + (query - begin) / group * group;
        if (!causal) own_end = smaller(own + group, num_keys);
      }
    } else if (contextual && id == 0) {
      from = 0;
      until = larger(until, position(last));
    }
    from = smaller(from, until);
    Seen out{from, until, own, own_end};
    if (out.second <= out.last) {  // they touch: one range
      out.last = larger(out.last, out.end);
      out.second = out.end = out.last;
    }
    return out;
  }
};

// Tiles of `size` positions are counted so that no sum over rows is needed: row r's first is first_tile(offsets[r], r).
// A row has room for one tile more than it may fill.
DEVICE_INLINE Offset first_tile(Offset begin, int row, int size) { return begin / size + row; }

DEVICE_INLINE unsigned mix(unsigned x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// The number of a query and head, to which dropout adds the key's.
DEVICE_INLINE unsigned dropout_row(const Args& args, Offset query, int head) {
  const unsigned row = mix(static_cast<unsigned>(query) ^ mix(static_cast<unsigned>(head)));
  return mix(mix(row ^ args.seed_high) ^ args.seed_low);
}
DEVICE_INLINE bool kept(const Args& args, unsigned number, Offset key) {
  return mix(number + static_cast<unsigned>(key) * 0x9e3779b9u) >= args.dropout_threshold;
}

DEVICE_INLINE Offset time_of_query(const Args& args, Offset query, Offset key_begin, int position, int num_keys) {
  if (args.query_times) return args.query_times[query];
  return args.key_times[key_begin + smaller(position + 1, num_keys - 1)];
}

DEVICE_INLINE float not_a_number() { return __int_as_float(0x7fffffff); }
DEVICE_INLINE float negative_infinity() { return __int_as_float(static_cast<int>(0xff800000u)); }

// What one query brings to all its pairs.
struct Line {
  Seen seen;
  int position;
  unsigned number;  // of dropout
  Offset time;
  float log_sum, mean;  // backward with softmax: of the scores; of the slopes of its weights

  DEVICE_INLINE bool sees(int key) const {
    return (key >= seen.first && key < seen.last) || (key >= seen.second && key < seen.end);
  }
  DEVICE_INLINE bool sees_all(int from, int until) const { return seen.first <= from && until <= seen.last; }
};

// A row of the call and one head of it.
struct Row {
  Offset query_begin, key_begin;
  int num_queries, num_keys, head;

  DEVICE_INLINE Row(const Args& args, int row, int h) {
    query_begin = args.offsets[row];
    key_begin = args.kv_offsets[row];
    num_queries = static_cast<int>(args.offsets[row + 1] - query_begin);
    num_keys = static_cast<int>(args.kv_offsets[row + 1] - key_begin);
    head = h;
  }

  // Query `query` of the row; one beyond its end sees nothing.
  DEVICE_INLINE Line line(const Args& args, const SeenRule& rule, int query) const {
    Line out;
    const bool there = query < num_queries;
    out.position = num_keys - num_queries + query;
    out.seen = there ? rule.seen(out.position) : Seen{0, 0, 0, 0};
    out.number = args.dropout_threshold ? dropout_row(args, query_begin + query, head) : 0u;
    out.time = there && args.time && num_keys > 0
                   ? time_of_query(args, query_begin + query, key_begin, out.position, num_keys)
                   : 0;
    out.log_sum = 0.0f;
    out.mean = 0.0f;
    return out;
  }
};

// The bucket of the gap that was asked last, and the gaps that share it: in a history neighbours mostly do.
struct Bucket {
  Offset low, high;  // gaps [low, high)
  int index;

  DEVICE_INLINE Bucket() : low(0), high(-1), index(0) {}
  DEVICE_INLINE int of(const Args& args, Offset gap) {
    if (gap >= low && gap < high) return index;
    int below = 0, above = args.num_thresholds;  // how many thresholds the gap reaches
    while (below < above) {
      const int middle = (below + above) / 2;
      if (args.thresholds[middle] <= gap)
        below = middle + 1;
      else
        above = middle;
    }
    index = below;
    low = index > 0 ? args.thresholds[index - 1] : 0;
    high = index < args.num_thresholds ? args.thresholds[index] : 0x7fffffffffffffffll;
    return index;
  }
};

DEVICE_INLINE Offset gap(Offset a, Offset b) { return a > b ? a - b : b - a; }

// A score's bias for a pair that is seen.
struct Bias {
  const float *distance, *time;  // of the head; distance at key position = query position

  DEVICE_INLINE Bias(const Args& args, int head) {
    distance = args.distance ? args.distance + (args.distance_heads > 1 ? Offset(head) * args.distance_size : 0) +
                                   args.distance_size / 2
                             : nullptr;
    time = args.time ? args.time + (args.time_heads > 1 ? Offset(head) * args.time_size : 0) : nullptr;
  }
  DEVICE_INLINE float of(const Args& args, int position, int key, Offset query_time, Offset key_time,
                         Bucket& bucket) const {
    float out = distance ? distance[key - position] : 0.0f;
    if (time) out += time[bucket.of(args, gap(query_time, key_time))];
    return out;
  }
};

// Which tiles of keys a tile of queries passes over: those of its two ranges, one after the other.
struct KeyTiles {
  int first, gap_at, gap, count;  // the n-th is first + n, and `gap` more from gap_at on

  DEVICE_INLINE KeyTiles(const Tile& tile, int size) {
    const int after = (tile.until + size - 1) / size, after_second = (tile.end + size - 1) / size;
    int second = tile.second / size;
    first = tile.from / size;
    gap_at = tile.from < tile.until ? after - first : 0;
    if (tile.from >= tile.until) first = second;
    gap = 0;
    count = gap_at;
    if (tile.second >= tile.end) return;
    second = gap_at > 0 ? larger(second, after) : second;
    if (second >= after_second) return;
    gap = second - (first + gap_at);
    count = gap_at + after_second - second;
  }
  DEVICE_INLINE int at(int n) const { return first + n + (n >= gap_at ? gap : 0); }
};

// 1 / N of silu's weights.
DEVICE_INLINE float weight_scale(const Args& args, const Offset* status) {
  if (args.softmax || !args.divide) return 1.0f;
  const Offset whole = args.max_seq_len ? args.max_seq_len : (status[status_longest] > 1 ? status[status_longest] : 1);
  return static_cast<float>(1.0 / static_cast<double>(whole));
}

}  // namespace attention
