#include "ops/transformer.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/offsets.h"
#include "ops/transformer_layout.h"

GENREC_PER_ISA(TransformerSizes transformer_sizes();
               std::int64_t transformer_head_cell(const TransformerStack& stack, std::int64_t keys);
               void transformer_read(const TransformerRows& rows, std::int64_t layer, std::int64_t first,
                                     std::int64_t last, const TransformerScratch& scratch);
               void transformer_pack(const TransformerRows& rows, std::int64_t layer, std::int64_t user,
                                     std::int64_t head, const TransformerScratch& scratch);
               void transformer_pack_cross(const TransformerRows& rows, std::int64_t layer, std::int64_t user,
                                           float* pairs, std::int64_t pair_stride, const TransformerScratch& scratch);
               void transformer_attend(const TransformerRows& rows, std::int64_t layer, std::int64_t first,
                                       std::int64_t last, const TransformerScratch& scratch);
               void transformer_finish(const TransformerRows& rows, std::int64_t first, std::int64_t last,
                                       float* hidden, const TransformerScratch& scratch);
               void transformer_head_rows(const TransformerStack& stack, const TransformerHead& args,
                                          std::int64_t begin, std::int64_t end, float* best, float* total,
                                          const TransformerScratch& scratch);)

namespace genrec {
namespace {

constexpr std::int64_t vector_lanes = 16;
constexpr std::int64_t rows_per_task = 96;  // their activations stay in the second cache beside a group of panels

constexpr std::int64_t read_beyond = vector_lanes * 4;  // bytes: heads are rounded by whole vectors, the last one too

std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }
std::int64_t whole(std::int64_t x) { return round_up(x, vector_lanes); }

// Rows of one task: enough tasks for the threads, each of whole tiles.
std::int64_t chunk_of(std::int64_t num_rows, int num_threads, const TransformerSizes& sizes) {
  const std::int64_t share = (num_rows + num_threads - 1) / num_threads;
  return std::max(sizes.tile_rows, std::min(rows_per_task, round_up(share, sizes.tile_rows)));
}

// Where each user's keys begin within a layer of a cache, in floats; the last entry is the layer's size.
std::vector<std::int64_t> cells_of(const TransformerStack& stack, const std::int64_t* offsets, std::int64_t num_users) {
  std::vector<std::int64_t> cells(static_cast<std::size_t>(num_users) + 1, 0);
  for (std::int64_t user = 0; user < num_users; ++user) {
    const std::int64_t keys = offsets[user + 1] - offsets[user];
    cells[static_cast<std::size_t>(user) + 1] =
        cells[static_cast<std::size_t>(user)] +
        stack.num_kv_heads * GENREC_DISPATCH(transformer_head_cell(stack, keys));
  }
  return cells;
}

void check_width(const char* op, const TransformerWeights& weights, std::int64_t width) {
  check(weights.rows_width == width, op, ": rows must have ", width, " channels, got ", weights.rows_width);
}

// Offsets from 0 that leave no user without a key; returns the longest row.
std::int64_t check_prompts(const char* op, const char* name, const std::int64_t* offsets, std::int64_t num_users) {
  check(offsets[0] == 0, op, ": ", name, " must start at 0, got ", offsets[0]);
  std::int64_t longest = 0;
  for (std::int64_t user = 0; user < num_users; ++user) {
    const std::int64_t length = offsets[user + 1] - offsets[user];
    check(length >= 1 && length < (std::int64_t{1} << 31), op, ": ", name,
          " must give every user at least one row, got ", length, " for user ", user);
    longest = std::max(longest, length);
  }
  return longest;
}

void check_cache(const char* op, const char* name, const TransformerStack& stack, const TransformerCache& cache,
                 const std::vector<std::int64_t>& cells) {
  check(cache.num_floats == stack.num_layers * cells.back(), op, ": ", name, " must hold ",
        stack.num_layers * cells.back(), " floats for these offsets, got ", cache.num_floats);
}

// The caller's table with room for whole vectors behind each head, moved to distance 0.
struct Distances {
  Memory memory;
  TransformerTables tables;

  Distances(const char* op, const TransformerStack& stack, const TransformerTables& given, std::int64_t longest)
      : tables(given) {
    check(!stack.rotary_width || given.rotary, op, ": rotary must be given for this stack, got none");
    check(!stack.rotary_width || longest <= given.num_positions, op, ": rotary must have ", longest, " positions, got ",
          given.num_positions);
    if (!given.distance) return;
    const std::int64_t room = given.distance_size / 2 + 1, padded = round_up(given.distance_size, 32) + 64;
    check(given.distance_size % 2 == 1 && longest <= room, op, ": distance must have a table for rows of ", longest,
          ", got one for ", room);
    memory = Memory(stack.num_heads * padded * 4);
    float* to = memory.as<float>();
    for (std::int64_t head = 0; head < stack.num_heads; ++head, to += padded) {
      std::memcpy(to, given.distance + head * given.distance_size, static_cast<std::size_t>(given.distance_size) * 4);
      std::fill(to + given.distance_size, to + padded, 0.0f);
    }
    tables.distance = memory.as<float>() + given.distance_size / 2;
    tables.distance_size = padded;
  }
};

// Working memory of every thread in one block.
class Scratches {
 public:
  Scratches(const TransformerStack& stack, const TransformerSizes& sizes, std::int64_t chunk, std::int64_t longest,
            std::int64_t chained, int num_threads) {
    const std::int64_t heads = stack.num_heads * stack.head_width;
    const std::int64_t widest = whole(std::max({stack.width, heads, stack.ff_width, stack.cross_width}));
    TransformerScratch one{};
    one.normed_stride = whole(stack.width);
    one.attended_stride = whole(heads) + vector_lanes;
    one.wide_stride = whole(std::max(stack.ff_width, heads));
    one.line_stride = round_up(longest, sizes.panel_width) + sizes.panel_width;
    const std::int64_t padded = whole(stack.head_width);
    const std::int64_t for_tile = sizes.tile_rows * (one.line_stride + padded), for_keys = longest * padded;
    const std::int64_t parts[] = {chunk * one.normed_stride,
                                  chunk * one.attended_stride,
                                  chunk * one.wide_stride,
                                  sizes.tile_rows * (one.line_stride + chained),
                                  chunk * widest,
                                  chunk,
                                  chunk * vector_lanes,
                                  chunk * vector_lanes,
                                  sizes.bfloat16 ? std::max(for_tile, for_keys) / 2 + vector_lanes : vector_lanes};
    std::int64_t floats = 0;
    for (std::int64_t part : parts) floats += whole(part);
    memory_ = Memory(num_threads * floats * 4);
    for (int thread = 0; thread < num_threads; ++thread) {
      float* at[9];
      float* next = memory_.as<float>() + thread * floats;
      for (int i = 0; i < 9; ++i) at[i] = next, next += whole(parts[i]);
      one.normed = at[0], one.attended = at[1], one.wide = at[2], one.line = at[3], one.rounded = at[4];
      one.row_scale = at[5], one.halves = reinterpret_cast<std::uint16_t*>(at[8]);
      all_.push_back(one);
      best_.push_back(at[6]);
      total_.push_back(at[7]);
    }
  }
  const TransformerScratch& of(std::int64_t thread) const { return all_[static_cast<std::size_t>(thread)]; }
  float* best(std::int64_t thread) const { return best_[static_cast<std::size_t>(thread)]; }
  float* total(std::int64_t thread) const { return total_[static_cast<std::size_t>(thread)]; }

 private:
  Memory memory_;
  std::vector<TransformerScratch> all_;
  std::vector<float*> best_, total_;
};

// body(task, worker) for every task, each worker with its own working memory.
template <typename Body>
void each(std::int64_t num_tasks, int num_threads, const Body& body) {
  const std::int64_t workers = std::min<std::int64_t>(num_threads, num_tasks);
  parallel_for(workers, num_threads, [&](std::int64_t worker) {
    for (std::int64_t task = worker; task < num_tasks; task += workers) body(task, worker);
  });
}

void copy_rows(const float* from, std::int64_t num_rows, std::int64_t width, float* to, std::int64_t stride) {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    std::copy(from + row * width, from + (row + 1) * width, to + row * stride);
    std::fill(to + row * stride + width, to + (row + 1) * stride, 0.0f);
  }
}

}  // namespace

TransformerSizes active_transformer_sizes() { return GENREC_DISPATCH(transformer_sizes()); }

std::int64_t transformer_cache_size(const TransformerWeights& weights, const std::int64_t* offsets,
                                    std::int64_t num_users, bool cross) {
  const char* op = cross ? "transformer_cross" : "transformer_prefill";
  const ReadStack read = read_stack(op, weights, active_transformer_sizes());
  check_prompts(op, "offsets", offsets, num_users);
  return read.stack.num_layers * cells_of(read.stack, offsets, num_users).back();
}

namespace {

// What prefill and step have in common: the stack, its tables and caches, checked.
struct Call {
  TransformerSizes sizes = active_transformer_sizes();
  ReadStack read;
  std::int64_t longest, longest_cross = 1;  // keys
  std::vector<std::int64_t> cells, cross_cells{0};
  Distances distances;

  Call(const char* op, const TransformerWeights& weights, const TransformerTables& tables,
       const TransformerCache& cache, const TransformerCache& cross, std::int64_t num_users, std::int64_t num_steps)
      : read(read_stack(op, weights, sizes)),
        longest(check_prompts(op, "offsets", cache.offsets, num_users)),
        cells(cells_of(read.stack, cache.offsets, num_users)),
        distances(op, read.stack, tables, longest + num_steps) {
    const TransformerStack& stack = read.stack;
    check_width(op, weights, stack.width);
    check(stack.num_layers > 0, op, ": stack must have layers, but stack ", weights.stack, " has none");
    check_cache(op, "cache", stack, cache, cells);
    if (!stack.cross_width) return;
    check(cross.values, op, ": cross must be given for a stack with cross-attention");
    longest_cross = check_prompts(op, "cross_offsets", cross.offsets, num_users);
    cross_cells = cells_of(stack, cross.offsets, num_users);
    check_cache(op, "cross", stack, cross, cross_cells);
  }

  TransformerRows rows(const TransformerCache& cache, const TransformerCache& cross) const {
    TransformerRows out{};
    out.stack = &read.stack, out.tables = distances.tables, out.cache = cache, out.cross = cross;
    out.cells = cells.data(), out.cross_cells = cross_cells.data();
    out.layer_floats = cells.back(), out.cross_layer_floats = cross_cells.back();
    out.x_stride = whole(read.stack.width);
    out.qkv_stride = whole((read.stack.num_heads + 2 * read.stack.num_kv_heads) * read.stack.head_width);
    return out;
  }
};

// Users [first, last) through all layers, by `threads` threads at a time.
void prefill_users(const TransformerPrefill& args, const Call& call, std::int64_t first_user, std::int64_t last_user,
                   int threads, const Scratches& scratches, std::int64_t first_scratch, std::int64_t chunk) {
  const TransformerStack& stack = call.read.stack;
  const std::int64_t* offsets = args.cache.offsets;
  TransformerRows rows = call.rows(args.cache, args.cross);
  rows.first_row = offsets[first_user], rows.num_rows = offsets[last_user] - rows.first_row;
  std::vector<std::int32_t> user_of, positions;
  for (std::int64_t user = first_user; user < last_user; ++user)
    for (std::int64_t i = 0; i < offsets[user + 1] - offsets[user]; ++i) {
      user_of.push_back(static_cast<std::int32_t>(user));
      positions.push_back(static_cast<std::int32_t>(i));
    }
  rows.users = user_of.data(), rows.positions = positions.data();
  const Memory memory(rows.num_rows * (rows.x_stride + rows.qkv_stride) * 4 + read_beyond);
  rows.x = memory.as<float>(), rows.qkv = rows.x + rows.num_rows * rows.x_stride;
  copy_rows(args.rows + rows.first_row * stack.width, rows.num_rows, stack.width, rows.x, rows.x_stride);
  const auto chunks = [&](const auto& body) {
    each((rows.num_rows + chunk - 1) / chunk, threads, [&](std::int64_t task, std::int64_t worker) {
      body(task * chunk, std::min(rows.num_rows, (task + 1) * chunk), scratches.of(first_scratch + worker));
    });
  };
  std::vector<std::int32_t> last_users, last_positions;
  Memory last_memory;
  for (std::int64_t layer = 0; layer < stack.num_layers; ++layer) {
    chunks([&](std::int64_t first, std::int64_t last, const TransformerScratch& scratch) {
      GENREC_DISPATCH(transformer_read(rows, layer, first, last, scratch));
    });
    each((last_user - first_user) * stack.num_kv_heads, threads, [&](std::int64_t task, std::int64_t worker) {
      GENREC_DISPATCH(transformer_pack(rows, layer, first_user + task / stack.num_kv_heads, task % stack.num_kv_heads,
                                       scratches.of(first_scratch + worker)));
    });
    if (args.only_last && layer + 1 == stack.num_layers) {  // nobody reads the others' last layer
      const std::int64_t users = last_user - first_user;
      last_memory = Memory(users * (rows.x_stride + rows.qkv_stride) * 4 + read_beyond);
      float *x = last_memory.as<float>(), *qkv = x + users * rows.x_stride;
      for (std::int64_t user = first_user; user < last_user; ++user) {
        const std::int64_t row = offsets[user + 1] - 1 - rows.first_row, to = user - first_user;
        std::copy(rows.x + row * rows.x_stride, rows.x + (row + 1) * rows.x_stride, x + to * rows.x_stride);
        std::copy(rows.qkv + row * rows.qkv_stride, rows.qkv + (row + 1) * rows.qkv_stride, qkv + to * rows.qkv_stride);
        last_users.push_back(static_cast<std::int32_t>(user));
        last_positions.push_back(positions[static_cast<std::size_t>(row)]);
      }
      rows.x = x, rows.qkv = qkv, rows.num_rows = users, rows.first_row = first_user;
      rows.users = last_users.data(), rows.positions = last_positions.data();
    }
    chunks([&](std::int64_t first, std::int64_t last, const TransformerScratch& scratch) {
      GENREC_DISPATCH(transformer_attend(rows, layer, first, last, scratch));
    });
  }
  chunks([&](std::int64_t first, std::int64_t last, const TransformerScratch& scratch) {
    GENREC_DISPATCH(transformer_finish(rows, first, last, args.hidden + rows.first_row * stack.width, scratch));
  });
}

}  // namespace

void transformer_prefill(const TransformerPrefill& args) {
  const char* op = "transformer_prefill";
  const Call call(op, args.weights, args.tables, args.cache, args.cross, args.num_users, 0);
  const std::int64_t users = args.num_users;
  if (users == 0) return;
  const std::int64_t* offsets = args.cache.offsets;
  const std::int64_t chunk = chunk_of(offsets[users], args.num_threads, call.sizes);
  const Scratches scratches(call.read.stack, call.sizes, chunk, std::max(call.longest, call.longest_cross), 0,
                            args.num_threads);
  ask_huge_pages(args.cache.values, args.cache.num_floats * 4);
  if (users < args.num_threads) return prefill_users(args, call, 0, users, args.num_threads, scratches, 0, chunk);
  // Users by whole chunks of rows, each through all layers by itself: what it works on stays in the second cache.
  std::vector<std::int64_t> begins{0};
  for (std::int64_t user = 1; user < users; ++user)
    if (offsets[user + 1] - offsets[begins.back()] > rows_per_task) begins.push_back(user);
  const auto tasks = static_cast<std::int64_t>(begins.size());
  begins.push_back(users);
  each(tasks, args.num_threads, [&](std::int64_t task, std::int64_t worker) {
    const auto at = static_cast<std::size_t>(task);
    prefill_users(args, call, begins[at], begins[at + 1], 1, scratches, worker, chunk);
  });
}

void transformer_cross(const TransformerWeights& weights, const float* given, const TransformerCache& cache,
                       std::int64_t num_users, int num_threads) {
  const char* op = "transformer_cross";
  const TransformerSizes sizes = active_transformer_sizes();
  const ReadStack read = read_stack(op, weights, sizes);
  const TransformerStack& stack = read.stack;
  check(stack.cross_width > 0, op, ": stack must have cross-attention, but stack ", weights.stack, " has none");
  check_width(op, weights, stack.cross_width);
  if (num_users == 0) return;
  const std::int64_t longest = check_prompts(op, "offsets", cache.offsets, num_users);
  const std::vector<std::int64_t> cells = cells_of(stack, cache.offsets, num_users);
  check_cache(op, "cache", stack, cache, cells);
  const std::int64_t stride = whole(stack.cross_width), pairs = whole(2 * stack.num_kv_heads * stack.head_width);
  const std::int64_t num_rows = cache.offsets[num_users];
  Memory memory(num_rows * stride * 4), working(num_threads * longest * pairs * 4 + read_beyond);
  copy_rows(given, num_rows, stack.cross_width, memory.as<float>(), stride);
  TransformerRows rows{};
  rows.stack = &stack, rows.cross = cache, rows.cross_cells = cells.data(), rows.cross_layer_floats = cells.back();
  ask_huge_pages(cache.values, cache.num_floats * 4);
  rows.x = memory.as<float>(), rows.x_stride = stride;
  const Scratches scratches(stack, sizes, longest, longest, 0, num_threads);
  each(stack.num_layers * num_users, num_threads, [&](std::int64_t task, std::int64_t worker) {
    GENREC_DISPATCH(transformer_pack_cross(rows, task / num_users, task % num_users,
                                           working.as<float>() + worker * longest * pairs, pairs,
                                           scratches.of(worker)));
  });
}

void transformer_step(const TransformerStep& args) {
  const char* op = "transformer_step";
  const Call call(op, args.weights, args.tables, args.cache, args.cross, args.num_users, args.num_steps + 1);
  const TransformerStack& stack = call.read.stack;
  const std::int64_t num_rows = args.num_users * args.num_beams;
  check(args.kept_floats == stack.num_layers * num_rows * 2 * stack.num_kv_heads * stack.head_width, op,
        ": kept must hold the keys and values of ", num_rows, " rows in ", stack.num_layers, " layers, got ",
        args.kept_floats, " floats");
  check(stack.causal, op, ": stack must be causal, but stack ", args.weights.stack, " is not");
  for (std::int64_t step = 0; step < args.num_steps; ++step)
    for (std::int64_t row = 0; row < num_rows; ++row) {
      const std::int32_t ancestor = args.ancestors[step * num_rows + row];
      check(ancestor >= 0 && ancestor < args.chain_rows[step], op, ": ancestors must be rows of step ", step,
            ", below ", args.chain_rows[step], ", got ", ancestor, " for row ", row);
    }
  if (num_rows == 0) return;
  std::vector<std::int32_t> user_of, positions;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const std::int64_t user = row / args.num_beams;
    user_of.push_back(static_cast<std::int32_t>(user));
    positions.push_back(
        static_cast<std::int32_t>(args.cache.offsets[user + 1] - args.cache.offsets[user] + args.num_steps));
  }
  // Chunks of whole users, where they are that small: their tiles have no tails.
  std::int64_t chunk = chunk_of(num_rows, args.num_threads, call.sizes);
  if (args.num_beams <= chunk) chunk = (chunk + args.num_beams / 2) / args.num_beams * args.num_beams;
  const Scratches scratches(stack, call.sizes, chunk, std::max(call.longest, call.longest_cross), args.num_steps + 1,
                            args.num_threads);
  const TransformerRows all = call.rows(args.cache, args.cross);
  const std::int64_t floats = chunk * (all.x_stride + all.qkv_stride);
  const Memory memory(args.num_threads * floats * 4 + read_beyond);
  ask_huge_pages(args.kept, args.kept_floats * 4);
  each((num_rows + chunk - 1) / chunk, args.num_threads, [&](std::int64_t task, std::int64_t worker) {
    TransformerRows rows = all;
    rows.step = &args, rows.first_row = task * chunk, rows.num_rows = std::min(num_rows - rows.first_row, chunk);
    rows.users = user_of.data() + rows.first_row, rows.positions = positions.data() + rows.first_row;
    rows.x = memory.as<float>() + worker * floats, rows.qkv = rows.x + chunk * rows.x_stride;
    copy_rows(args.rows + rows.first_row * stack.width, rows.num_rows, stack.width, rows.x, rows.x_stride);
    const TransformerScratch& scratch = scratches.of(worker);
    for (std::int64_t layer = 0; layer < stack.num_layers; ++layer) {
      GENREC_DISPATCH(transformer_read(rows, layer, 0, rows.num_rows, scratch));
      GENREC_DISPATCH(transformer_attend(rows, layer, 0, rows.num_rows, scratch));
    }
    GENREC_DISPATCH(transformer_finish(rows, 0, rows.num_rows, args.hidden + rows.first_row * stack.width, scratch));
  });
}

void transformer_head(const TransformerHead& args) {
  const char* op = "transformer_head";
  const TransformerSizes sizes = active_transformer_sizes();
  const ReadStack read = read_stack(op, args.weights, sizes);
  const TransformerStack& stack = read.stack;
  check_width(op, args.weights, stack.width);
  check(stack.head_size > 0, op, ": stack must have a head, but stack ", args.weights.stack, " has none");
  check(0 <= args.first && args.first <= args.last && args.last <= stack.head_size, op,
        ": first and last must lie in [0, ", stack.head_size, "], got ", args.first, " and ", args.last);
  if (args.num_rows == 0) return;
  const std::int64_t chunk = chunk_of(args.num_rows, args.num_threads, sizes);
  const Scratches scratches(stack, sizes, chunk, 1, 0, args.num_threads);
  each((args.num_rows + chunk - 1) / chunk, args.num_threads, [&](std::int64_t task, std::int64_t worker) {
    const std::int64_t begin = task * chunk, end = std::min(args.num_rows, begin + chunk);
    GENREC_DISPATCH(transformer_head_rows(stack, args, begin, end, scratches.best(worker), scratches.total(worker),
                                          scratches.of(worker)));
  });
}

}  // namespace genrec
