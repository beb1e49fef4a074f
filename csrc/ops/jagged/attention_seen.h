// Which keys a query sees (the masks of production HSTU), and the bucket of every gap in time. Included by per-ISA
// files alone.
#pragma once
#include <cstdint>

#include "core/vec.h"
#include "ops/jagged/jagged_attention.h"

namespace genrec::GENREC_ISA {

// The rule of one row. Positions have ids: contextual ones share id 0, the others count up, targets share the last id.
struct SeenRule {
  std::int64_t num_keys, shift, last, targets, group, window, full;
  bool causal, contextual;

  SeenRule(const AttentionArgs& args, std::int64_t row) {
    num_keys = args.kv_offsets[row + 1] - args.kv_offsets[row];
    contextual = args.contextual_seq_len > 0;
    shift = contextual ? args.contextual_seq_len - 1 : 0;
    targets = args.num_targets ? args.num_targets[row] : 0;
    last = num_keys - shift - targets;
    group = args.target_group_size;
    window = args.max_attn_len;
    full = args.min_full_attn_seq_len;
    causal = args.causal;
  }

  // The first position whose id is at least x.
  std::int64_t position(std::int64_t x) const {
    if (x <= 0) return 0;
    if (targets && x > last) return num_keys;
    return x + shift < num_keys ? x + shift : num_keys;
  }

  AttentionSeen seen(std::int64_t query) const {
    std::int64_t id = query - shift > 0 ? query - shift : 0;
    if (targets && id > last) id = last;
    const bool target = targets && query >= num_keys - targets;
    const bool near = window > 0 && !(full > 0 && id >= last - full);
    std::int64_t from = near ? position(id - window) : 0, until = position(id);
    std::int64_t own = query, own_end = query + 1;
    if (!causal) until = near ? position(id + window + 1) : num_keys;
    if (target) {
      const std::int64_t begin = num_keys - targets;
      if (!causal) until = begin;  // nothing has a higher id than a target
      own = begin + (query - begin) / group * group;
      if (!causal) own_end = own + group < num_keys ? own + group : num_keys;
      if (group == 1) own = query, own_end = query + 1;
    } else if (contextual && id == 0) {
      from = 0;
      until = until > position(last) ? until : position(last);
    }
    if (from > until) from = until;
    AttentionSeen out{static_cast<std::int32_t>(from), static_cast<std::int32_t>(until), static_cast<std::int32_t>(own),
                      static_cast<std::int32_t>(own_end)};
    if (out.second <= out.last) {  // they touch: one range
      if (out.end > out.last) out.last = out.end;
      out.second = out.end = out.last;
    }
    return out;
  }
};

static inline std::int64_t seen_from(const AttentionSeen& seen) {
  return seen.first < seen.last ? seen.first : seen.second;
}
static inline std::int64_t seen_until(const AttentionSeen& seen) {
  return seen.second < seen.end ? seen.end : seen.last;
}

static inline std::int64_t gap(std::int64_t a, std::int64_t b) { return a > b ? a - b : b - a; }

// How many of the thresholds the gap reaches.
static inline std::int64_t bucket(const AttentionArgs& args, std::int64_t g) {
  std::int64_t low = 0, high = args.num_thresholds;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (args.thresholds[middle] <= g)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Buckets of queries [first, last) of a row and its keys [begin, end), into buckets[(query - first) * line + key -
// begin], for the keys up to the last that a query sees; returns a number that all of them are below. Where times
// ascend, as they do in histories, a key's bucket only grows from query to query: it is kept with the time at which it
// will next grow, so that a pair costs a comparison. Other times cost a search per pair.
static inline std::int64_t fill_buckets(const AttentionArgs& args, std::int64_t row, std::int64_t first,
                                        std::int64_t last, std::int64_t begin, std::int64_t end,
                                        const AttentionScratch& scratch) {
  const std::int64_t num_keys = args.kv_offsets[row + 1] - args.kv_offsets[row];
  const std::int64_t* keys = args.key_times + args.kv_offsets[row];
  const std::int64_t* queries = args.query_times ? args.query_times + args.offsets[row] : nullptr;
  const auto asked = [&](std::int64_t query) {
    return queries ? queries[query] : keys[query + 1 < num_keys ? query + 1 : query];
  };
  constexpr std::int64_t never = INT64_MAX;
  if (first >= last || begin >= end) return 1;
  std::int64_t earliest = asked(first), latest = earliest;
  const auto widen = [&](std::int64_t time) {
    earliest = time < earliest ? time : earliest;
    latest = time > latest ? time : latest;
  };
  for (std::int64_t j = begin; j < end; ++j) widen(keys[j]);
  for (std::int64_t i = first; i < last; ++i) widen(asked(i));
  const std::int64_t met = bucket(args, latest - earliest) + 1;
  bool ascending = true;
  for (std::int64_t j = begin + 1; j < end; ++j) ascending &= keys[j - 1] <= keys[j];
  for (std::int64_t i = first + 1; i < last; ++i) ascending &= asked(i - 1) <= asked(i);
  // A query sees no key that is later than itself by a whole threshold, or that key's bucket would first fall.
  const std::int64_t slack = args.num_thresholds ? args.thresholds[0] : never;
  for (std::int64_t i = first; i < last; ++i) {
    const AttentionSeen& seen = scratch.seen[i - first];
    const std::int64_t until = seen_until(seen);
    if (until > seen_from(seen)) ascending &= keys[until - 1] <= asked(i) || keys[until - 1] - asked(i) < slack;
  }
  const std::int64_t count = end - begin;
  if (!ascending) {
    for (std::int64_t i = first; i < last; ++i)
      for (std::int64_t j = 0; j < count; ++j)
        scratch.buckets[(i - first) * scratch.line + j] =
            static_cast<std::uint16_t>(bucket(args, gap(asked(i), keys[begin + j])));
    return met;
  }
  const auto grows_at = [&](std::int64_t j, std::int64_t found) {
    return found < args.num_thresholds ? keys[begin + j] + args.thresholds[found] : never;
  };
  for (std::int64_t j = 0; j < count; ++j) {
    const std::int64_t g = asked(first) - keys[begin + j];
    const std::int64_t found = g > 0 ? bucket(args, g) : 0;
    scratch.bucket_of[j] = static_cast<std::uint16_t>(found);
    scratch.step_time[j] = grows_at(j, found);
  }
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t now = asked(i);
    std::uint16_t* line = scratch.buckets + (i - first) * scratch.line;
    const std::int64_t last_seen = seen_until(scratch.seen[i - first]) - begin,
                       stop = last_seen < count ? last_seen : count;
    for (std::int64_t from = 0; from < stop; from += lanes) {
      const std::int64_t until = from + lanes < count ? from + lanes : count;
      if (until - from == lanes) {
        std::int64_t any = 0;
        for (int l = 0; l < lanes; ++l) any |= now >= scratch.step_time[from + l] ? 1 : 0;
        if (!any) {
          for (int l = 0; l < lanes; ++l) line[from + l] = scratch.bucket_of[from + l];
          continue;
        }
      }
      for (std::int64_t j = from; j < until; ++j) {
        std::int64_t found = scratch.bucket_of[j];
        while (now >= scratch.step_time[j]) scratch.step_time[j] = grows_at(j, ++found);
        line[j] = scratch.bucket_of[j] = static_cast<std::uint16_t>(found);
      }
    }
  }
  return met;
}

}  // namespace genrec::GENREC_ISA
