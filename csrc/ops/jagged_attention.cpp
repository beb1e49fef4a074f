#include "ops/jagged_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(AttentionSizes attention_sizes();
               void attention_forward(const AttentionPlan& plan, const AttentionTask& task,
                                      const AttentionScratch& scratch, void* out, float* log_sums);)

namespace genrec {
namespace {

constexpr std::int64_t rows_per_task = 256;  // packing a row's keys again costs 4 % of the products of so many
constexpr double flops_per_fork = 10e6;      // about 100 us of one thread
constexpr std::int64_t vector_lanes = 16;    // floats of a vector
constexpr std::int64_t farthest = std::int64_t{1} << 62;

std::int64_t length(const std::int64_t* offsets, std::int64_t row) { return offsets[row + 1] - offsets[row]; }

std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }

void check_offsets(const char* name, const std::int64_t* offsets, std::int64_t num_rows, std::int64_t total) {
  check(offsets[0] == 0 && offsets[num_rows] == total, "jagged_attention: ", name, " must run from 0 to ", total,
        ", got ", offsets[0], " to ", offsets[num_rows]);
  for (std::int64_t row = 0; row < num_rows; ++row)
    check(offsets[row] <= offsets[row + 1], "jagged_attention: ", name, " must not decrease, but do after row ", row);
}

void check_times(const char* name, const std::int64_t* times, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i)
    check(-farthest < times[i] && times[i] < farthest, "jagged_attention: ", name,
          " of the bias must be below 2^62, got ", times[i], " at ", i);
}

// Every rule that only values can break; returns the longest row of keys.
std::int64_t check_values(const AttentionArgs& args) {
  check_offsets("offsets", args.offsets, args.num_rows, args.num_queries);
  check_offsets("kv_offsets", args.kv_offsets, args.num_rows, args.num_keys);
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

// Parts of one block of memory, each on its own cache line.
class Parts {
 public:
  template <typename T>
  void add(T*& part, std::int64_t count) {
    places_.push_back({reinterpret_cast<void**>(&part), bytes_});
    bytes_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
  }
  void add(void*& part, std::int64_t bytes) {
    places_.push_back({&part, bytes_});
    bytes_ += round_up(bytes, 64);
  }
  Memory take() const {
    Memory memory(bytes_);
    for (const Place& place : places_) {
      void* found = memory.as<std::byte>() + place.offset;
      std::memcpy(place.part, &found, sizeof(found));
    }
    return memory;
  }

 private:
  struct Place {
    void** part;
    std::int64_t offset;
  };
  std::vector<Place> places_;
  std::int64_t bytes_ = 0;
};

// The distance table with room for whole vectors behind each head's last entry.
struct PaddedDistance {
  Memory memory;
  const float* centre = nullptr;
  std::int64_t step = 0;

  explicit PaddedDistance(const AttentionArgs& args) {
    if (!args.distance) return;
    const std::int64_t padded = args.distance_size + 2 * vector_lanes;
    memory = Memory(args.distance_heads * padded * 4);
    float* to = memory.as<float>();
    for (std::int64_t head = 0; head < args.distance_heads; ++head, to += padded) {
      std::memcpy(to, args.distance + head * args.distance_size, static_cast<std::size_t>(args.distance_size) * 4);
      std::fill(to + args.distance_size, to + padded, 0.0f);
    }
    centre = memory.as<float>() + args.distance_size / 2;
    step = args.distance_heads > 1 ? padded : 0;
  }
};

AttentionPlan make_plan(const AttentionArgs& args, std::int64_t longest, const PaddedDistance& distance) {
  const std::int64_t whole = args.max_seq_len ? args.max_seq_len : std::max<std::int64_t>(longest, 1);
  const float scale = args.softmax || !args.divide ? 1.0f : static_cast<float>(1.0 / static_cast<double>(whole));
  return {args,
          scale,
          static_cast<float>(1.0 / (1.0 - args.dropout)),
          static_cast<std::uint32_t>(std::floor(args.dropout * 4294967296.0)),
          distance.centre,
          distance.step};
}

double pairs_of(const AttentionArgs& args) {
  double pairs = 0;
  for (std::int64_t row = 0; row < args.num_rows; ++row)
    pairs += static_cast<double>(length(args.offsets, row)) * static_cast<double>(length(args.kv_offsets, row));
  return args.causal ? pairs / 2 : pairs;
}

std::vector<AttentionTask> make_tasks(const AttentionArgs& args) {
  // The buckets of time gaps serve all heads of a task; else a head alone is a task.
  const std::int64_t heads = args.time ? args.num_heads : 1;
  std::vector<AttentionTask> tasks;
  for (std::int64_t row = 0; row < args.num_rows; ++row)
    for (std::int64_t first = 0; first < length(args.offsets, row); first += rows_per_task)
      for (std::int64_t head = 0; head < args.num_heads; head += heads)
        tasks.push_back({row, head, head + heads, first, std::min(length(args.offsets, row), first + rows_per_task)});
  return tasks;
}

}  // namespace

void jagged_attention(const AttentionArgs& args, void* out, float* log_sums) {
  const std::int64_t longest = check_values(args);
  const AttentionSizes sizes = GENREC_DISPATCH(attention_sizes());
  const PaddedDistance distance(args);
  const AttentionPlan plan = make_plan(args, longest, distance);
  std::vector<AttentionTask> tasks = make_tasks(args);
  if (tasks.empty()) return;
  const double flops = 2 * pairs_of(args) * static_cast<double>(args.num_heads * (args.width + args.value_width));
  const int threads =
      flops < flops_per_fork
          ? 1
          : static_cast<int>(std::min<std::int64_t>(args.num_threads, static_cast<std::int64_t>(tasks.size())));
  if (threads > 1)  // the longest first, so that none is left over at the end
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const AttentionTask& a, const AttentionTask& b) { return a.last > b.last; });
  std::int64_t most_queries = 0;
  for (const AttentionTask& task : tasks) most_queries = std::max(most_queries, task.last - task.first);
  const std::int64_t line = round_up(longest, 2 * sizes.panel_width) + vector_lanes;
  const std::int64_t even = round_up(args.width, 2);
  std::vector<AttentionScratch> scratch(static_cast<std::size_t>(threads));
  std::vector<Memory> memory;
  for (AttentionScratch& one : scratch) {
    Parts parts;
    one.line = line;
    parts.add(one.seen, most_queries);
    parts.add(one.keys, round_up(longest, sizes.panel_width) * even * args.element_size);
    parts.add(one.values, round_up(longest, 2) * round_up(args.value_width, sizes.panel_width) * args.element_size);
    parts.add(one.queries, args.element_size == 2 ? sizes.tile_rows * even : 0);
    parts.add(one.weights, sizes.tile_rows * line);
    parts.add(one.rounded, args.element_size == 2 ? sizes.tile_rows * line : 0);
    parts.add(one.buckets, args.time ? most_queries * line : 0);
    parts.add(one.bucket_of, args.time ? line : 0);
    parts.add(one.step_time, args.time ? line : 0);
    memory.push_back(parts.take());
  }
  std::atomic<std::int64_t> next{0};
  parallel_for(threads, threads, [&](std::int64_t worker) {
    for (std::int64_t task; (task = next++) < static_cast<std::int64_t>(tasks.size());)
      GENREC_DISPATCH(attention_forward(plan, tasks[static_cast<std::size_t>(task)],
                                        scratch[static_cast<std::size_t>(worker)], out, log_sums));
  });
}

}  // namespace genrec
