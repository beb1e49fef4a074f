#include "ops/jagged/jagged_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/jagged/attention_check.h"

GENREC_PER_ISA(AttentionSizes attention_sizes();
               void attention_forward(const AttentionPlan& plan, const AttentionTask& task,
                                      const AttentionScratch& scratch, void* out, float* log_sums);
               void attention_backward(const AttentionPlan& plan, const AttentionTask& task,
                                       const AttentionGradients& gradients, const AttentionTaskSums& sums,
                                       const AttentionBackwardScratch& scratch);)

namespace genrec {
namespace {

constexpr std::int64_t rows_per_task = 256;  // packing a row's keys again costs 4 % of the products of so many
constexpr double flops_per_fork = 10e6;      // about 100 us of one thread
constexpr std::int64_t vector_lanes = 16;    // floats of a vector

std::int64_t length(const std::int64_t* offsets, std::int64_t row) { return offsets[row + 1] - offsets[row]; }

std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }

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

// A bias' table with room for whole vectors behind each head's last entry.
struct PaddedTable {
  Memory memory;
  const float* data = nullptr;
  std::int64_t step = 0;  // floats from head to head, 0 where they share one

  PaddedTable(const float* table, std::int64_t heads, std::int64_t size) {
    if (!table) return;
    const std::int64_t padded = round_up(size, 2 * vector_lanes) + 2 * vector_lanes;
    memory = Memory(heads * padded * 4);
    float* to = memory.as<float>();
    for (std::int64_t head = 0; head < heads; ++head, to += padded) {
      std::memcpy(to, table + head * size, static_cast<std::size_t>(size) * 4);
      std::fill(to + size, to + padded, 0.0f);
    }
    data = memory.as<float>();
    step = heads > 1 ? padded : 0;
  }
};

AttentionPlan make_plan(const AttentionArgs& args, std::int64_t longest, const PaddedTable& distance,
                        const PaddedTable& time) {
  const std::int64_t whole = args.max_seq_len ? args.max_seq_len : std::max<std::int64_t>(longest, 1);
  const float scale = args.softmax || !args.divide ? 1.0f : static_cast<float>(1.0 / static_cast<double>(whole));
  return {args,
          scale,
          static_cast<float>(1.0 / (1.0 - args.dropout)),
          static_cast<std::uint32_t>(std::floor(args.dropout * 4294967296.0)),
          distance.data ? distance.data + args.distance_size / 2 : nullptr,
          distance.step,
          time.data,
          time.step};
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

void jagged_attention_check(const AttentionArgs& given) { check_attention(bounded(given)); }

void jagged_attention(const AttentionArgs& given, void* out, float* log_sums) {
  const AttentionArgs args = bounded(given);
  const std::int64_t longest = check_attention(args);
  const AttentionSizes sizes = GENREC_DISPATCH(attention_sizes());
  if (args.element_size == 2 && (!sizes.bfloat16 || (args.width | args.q_stride | args.k_stride) % 2))
    throw UnsupportedError(
        message("jagged_attention: bfloat16 needs an instruction set that multiplies it (avx512_bf16) ",
                "and an even width, got ", isa_name(active_isa()), " and ", args.width));
  const PaddedTable distance(args.distance, args.distance_heads, args.distance_size);
  const PaddedTable time(args.time, args.time_heads, args.time_size);
  const AttentionPlan plan = make_plan(args, longest, distance, time);
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

namespace {

// Blocks of keys of one row and some heads. Long rows are cut among several threads, each with its own sums.
std::vector<AttentionTask> make_backward_tasks(const AttentionArgs& args, int threads) {
  const std::int64_t heads = args.time ? args.num_heads : 1;
  const double share = pairs_of(args) / (4.0 * threads) + 1;
  std::vector<AttentionTask> tasks;
  for (std::int64_t row = 0; row < args.num_rows; ++row) {
    const std::int64_t keys = length(args.kv_offsets, row), queries = length(args.offsets, row);
    const std::int64_t blocks = (keys + attention_key_block - 1) / attention_key_block;
    const double pairs = static_cast<double>(keys) * static_cast<double>(queries) / (args.causal ? 2 : 1);
    std::int64_t parts = threads == 1 ? 1 : static_cast<std::int64_t>(pairs / share) + 1;
    parts = std::max<std::int64_t>(1, std::min({parts, blocks, static_cast<std::int64_t>(4 * threads)}));
    for (std::int64_t head = 0; head < args.num_heads; head += heads)
      for (std::int64_t part = 0; part < parts; ++part)
        tasks.push_back({row, head, head + heads, std::min(keys, blocks * part / parts * attention_key_block),
                         std::min(keys, blocks * (part + 1) / parts * attention_key_block)});
  }
  return tasks;
}

// What tasks add up on their own, and its way into the outputs in the order of the tasks.
class TaskSums {
 public:
  TaskSums(const AttentionArgs& args, const AttentionGradients& gradients, const std::vector<AttentionTask>& tasks)
      : args_(args), gradients_(gradients), tasks_(tasks) {
    const std::int64_t row_size = args.num_heads * args.width;
    std::int64_t floats = 0;
    for (const AttentionTask& task : tasks) {
      Places at{-1, -1, -1};
      if (task.first > 0) at.q = floats, floats += length(args.offsets, task.row) * own_width(task);
      if (gradients.distance) at.distance = floats, floats += own_heads(args.distance_heads, task) * step(task);
      if (gradients.time) at.time = floats, floats += own_heads(args.time_heads, task) * args.time_size;
      places_.push_back(at);
    }
    sums_.assign(static_cast<std::size_t>(floats), 0.0f);
    std::fill(gradients.q, gradients.q + args.num_queries * row_size, 0.0f);
  }

  AttentionTaskSums of(std::size_t index) {
    const AttentionTask& task = tasks_[index];
    const Places& at = places_[index];
    AttentionTaskSums out{};
    const std::int64_t row_size = args_.num_heads * args_.width;
    // The body counts heads from 0; a part's own sums hold its heads alone.
    if (at.q < 0) {
      out.q = gradients_.q + args_.offsets[task.row] * row_size;
      out.q_stride = row_size;
    } else {
      out.q = sums_.data() + at.q - task.head * args_.width;
      out.q_stride = own_width(task);
    }
    if (at.distance >= 0) {
      out.distance_step = args_.distance_heads > 1 ? step(task) : 0;
      out.distance = sums_.data() + at.distance - task.head * out.distance_step;
    }
    if (at.time >= 0) out.time = sums_.data() + at.time - (args_.time_heads > 1 ? task.head * args_.time_size : 0);
    return out;
  }

  void finish() const {
    std::vector<double> distance(
        static_cast<std::size_t>(gradients_.distance ? args_.distance_heads * args_.distance_size : 0));
    std::vector<double> time(static_cast<std::size_t>(gradients_.time ? args_.time_heads * args_.time_size : 0));
    for (std::size_t index = 0; index < tasks_.size(); ++index) {
      const AttentionTask& task = tasks_[index];
      const Places& at = places_[index];
      const std::int64_t queries = length(args_.offsets, task.row), keys = length(args_.kv_offsets, task.row);
      if (at.q >= 0)
        for (std::int64_t i = 0; i < queries; ++i)
          for (std::int64_t c = 0; c < own_width(task); ++c)
            gradients_.q[((args_.offsets[task.row] + i) * args_.num_heads + task.head) * args_.width + c] +=
                sums_[static_cast<std::size_t>(at.q + i * own_width(task) + c)];
      for (std::int64_t head = 0; at.distance >= 0 && head < own_heads(args_.distance_heads, task); ++head) {
        const std::int64_t table = (args_.distance_heads > 1 ? task.head + head : 0) * args_.distance_size;
        const std::int64_t to = table + args_.distance_size / 2 - (keys - 1), from = at.distance + head * step(task);
        for (std::int64_t i = 0; i + 1 < queries + keys; ++i)
          distance[static_cast<std::size_t>(to + i)] += static_cast<double>(sums_[static_cast<std::size_t>(from + i)]);
      }
      for (std::int64_t head = 0; at.time >= 0 && head < own_heads(args_.time_heads, task); ++head)
        for (std::int64_t i = 0; i < args_.time_size; ++i)
          time[static_cast<std::size_t>((args_.time_heads > 1 ? task.head + head : 0) * args_.time_size + i)] +=
              static_cast<double>(sums_[static_cast<std::size_t>(at.time + head * args_.time_size + i)]);
    }
    for (std::size_t i = 0; i < distance.size(); ++i) gradients_.distance[i] = static_cast<float>(distance[i]);
    for (std::size_t i = 0; i < time.size(); ++i) gradients_.time[i] = static_cast<float>(time[i]);
  }

 private:
  struct Places {
    std::int64_t q, distance, time;  // in sums_, or -1
  };

  static std::int64_t own_heads(std::int64_t table_heads, const AttentionTask& task) {
    return table_heads > 1 ? task.last_head - task.head : 1;
  }
  std::int64_t own_width(const AttentionTask& task) const { return (task.last_head - task.head) * args_.width; }
  std::int64_t step(const AttentionTask& task) const {
    return length(args_.offsets, task.row) + length(args_.kv_offsets, task.row) + 2 * vector_lanes;
  }

  const AttentionArgs& args_;
  const AttentionGradients& gradients_;
  const std::vector<AttentionTask>& tasks_;
  std::vector<Places> places_;
  std::vector<float> sums_;
};

}  // namespace

void jagged_attention_backward(const AttentionArgs& given, const AttentionGradients& gradients) {
  const AttentionArgs args = bounded(given);
  const std::int64_t longest = check_attention(args);
  const AttentionSizes sizes = GENREC_DISPATCH(attention_sizes());
  const PaddedTable distance(args.distance, args.distance_heads, args.distance_size);
  const PaddedTable time(args.time, args.time_heads, args.time_size);
  const AttentionPlan plan = make_plan(args, longest, distance, time);
  const double flops = 5 * pairs_of(args) * static_cast<double>(args.num_heads * (args.width + args.value_width));
  int threads = flops < flops_per_fork ? 1 : args.num_threads;
  const std::vector<AttentionTask> tasks = make_backward_tasks(args, threads);
  threads = static_cast<int>(
      std::max<std::int64_t>(1, std::min<std::int64_t>(threads, static_cast<std::int64_t>(tasks.size()))));
  TaskSums sums(args, gradients, tasks);
  std::int64_t most_queries = 0;
  for (std::int64_t row = 0; row < args.num_rows; ++row)
    most_queries = std::max(most_queries, length(args.offsets, row));
  const std::int64_t line = attention_key_block + vector_lanes;
  const std::int64_t width = round_up(args.width, sizes.panel_width),
                     value_width = round_up(args.value_width, sizes.panel_width);
  std::vector<AttentionBackwardScratch> scratch(static_cast<std::size_t>(threads));
  std::vector<Memory> memory;
  for (AttentionBackwardScratch& one : scratch) {
    Parts parts;
    one.base = {};
    one.base.line = line;
    parts.add(one.base.seen, most_queries);
    parts.add(one.base.keys, attention_key_block * width * 4);
    parts.add(one.base.values, attention_key_block * value_width * 4);
    parts.add(one.base.weights, attention_query_block * line);
    parts.add(one.slopes, attention_query_block * line);
    parts.add(one.key_rows, attention_key_block * width);
    parts.add(one.query_rows, attention_query_block * width);
    parts.add(one.grad_rows, attention_query_block * value_width);
    parts.add(one.key_sums, attention_key_block * width);
    parts.add(one.value_sums, attention_key_block * value_width);
    parts.add(one.base.buckets, args.time ? most_queries * line : 0);
    parts.add(one.base.bucket_of, args.time ? line : 0);
    parts.add(one.base.step_time, args.time ? line : 0);
    parts.add(one.time_sums, args.time ? 4 * args.time_size : 0);
    memory.push_back(parts.take());
  }
  std::atomic<std::int64_t> next{0};
  parallel_for(threads, threads, [&](std::int64_t worker) {
    for (std::int64_t task; (task = next++) < static_cast<std::int64_t>(tasks.size());) {
      const auto index = static_cast<std::size_t>(task);
      GENREC_DISPATCH(
          attention_backward(plan, tasks[index], gradients, sums.of(index), scratch[static_cast<std::size_t>(worker)]));
    }
  });
  sums.finish();
}

}  // namespace genrec
