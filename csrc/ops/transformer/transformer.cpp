#include "ops/transformer/transformer.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/transformer/transformer_call.h"
#include "ops/transformer/transformer_layout.h"

GENREC_PER_ISA(TransformerSizes transformer_sizes();
               void transformer_mix(const TransformerRows& rows, std::int64_t layer, std::int64_t first,
                                    std::int64_t last, const TransformerScratch& scratch);
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

TransformerSizes active_transformer_sizes() { return GENREC_DISPATCH(transformer_sizes()); }

std::int64_t transformer_cache_size(const TransformerWeights& weights, const std::int64_t* offsets,
                                    std::int64_t num_users, std::int64_t num_rows, bool cross) {
  const char* op = cross ? "transformer_cross" : "transformer_prefill";
  const ReadStack read = read_stack(op, weights, active_transformer_sizes());
  check_prompts(op, "offsets", offsets, num_users);
  check_end(op, offsets, num_users, num_rows);
  return read.stack.num_layers * cells_of(read.stack, offsets, num_users).back();
}

namespace {
// Users [first, last) through all layers, by `threads` threads at a time.
void prefill_users(const TransformerPrefill& args, const Call& call, std::int64_t first_user, std::int64_t last_user,
                   int threads, const Scratches& scratches, std::int64_t first_scratch, std::int64_t chunk) {
  const TransformerStack& stack = call.read.stack;
  const std::int64_t* offsets = args.offsets;
  TransformerRows rows = call.rows(args.cache, args.cross);
  rows.row_offsets = offsets, rows.past = args.past.values ? &args.past : nullptr;
  rows.first_row = offsets[first_user], rows.num_rows = offsets[last_user] - rows.first_row;
  std::vector<std::int32_t> user_of, positions;
  for (std::int64_t user = first_user; user < last_user; ++user)
    for (std::int64_t i = 0; i < offsets[user + 1] - offsets[user]; ++i) {
      user_of.push_back(static_cast<std::int32_t>(user));
      positions.push_back(static_cast<std::int32_t>((rows.past ? args.past.used[user] : 0) + i));
    }
  rows.users = user_of.data(), rows.positions = positions.data();
  const Memory memory(rows.num_rows * (rows.x_stride + rows.qkv_stride) * 4 + read_beyond);
  rows.x = memory.as<float>(), rows.qkv = rows.x + rows.num_rows * rows.x_stride;
  copy_rows(args.rows + rows.first_row * stack.width, rows.num_rows, stack.width, rows.x, rows.x_stride);
  look_up(args.first, rows);
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

// What was read before fits the stack, and with the new rows makes up the cache.
void check_past(const char* op, const TransformerPrefill& args, const TransformerStack& stack) {
  const TransformerPast& past = args.past;
  for (std::int64_t user = 0; user < args.num_users; ++user) {
    const std::int64_t used = past.values ? past.used[user] : 0, rows = past.values ? past.rows[user] : 0;
    check(0 <= used && used <= rows && rows < std::int64_t{1} << 31, op,
          ": past_used must be in [0, past_rows], and those below 2^31, got ", used, " of ", rows, " for user ", user);
    const std::int64_t all = args.cache.offsets[user + 1] - args.cache.offsets[user];
    check(all == used + args.offsets[user + 1] - args.offsets[user], op,
          ": cache_offsets must count the rows of past_used and the new ones, got ", all, " for user ", user);
    if (used == 0) continue;
    check(stack.causal, op, ": past must be empty where rows see those behind them: stack ", args.weights.stack,
          " is not causal");
    const std::int64_t ends[] = {0, rows}, floats = stack.num_layers * cells_of(stack, ends, 1).back();
    check(past.floats[user] == floats, op, ": past[", user, "] must hold ", floats, " floats for ", rows,
          " rows of this stack, got ", past.floats[user]);
  }
}

}  // namespace

void transformer_prefill(const TransformerPrefill& args) {
  const char* op = "transformer_prefill";
  const Call call(op, args.weights, args.tables, args.cache, args.cross, args.num_users, 0);
  const std::int64_t users = args.num_users;
  if (users == 0) return;
  const std::int64_t* offsets = args.offsets;
  check_prompts(op, "offsets", offsets, users);
  check_end(op, offsets, users, args.num_rows);
  check_past(op, args, call.read.stack);
  check_first(op, call.read.stack, args.first, offsets[users]);
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

void transformer_first(const TransformerWeights& weights, const float* given, std::int64_t num_rows, float* table,
                       std::int64_t table_width, int num_threads) {
  const char* op = "transformer_first";
  const TransformerSizes sizes = active_transformer_sizes();
  const ReadStack read = read_stack(op, weights, sizes);
  const TransformerStack& stack = read.stack;
  check_width(op, weights, stack.width);
  check(stack.num_layers > 0, op, ": stack must have layers, but stack ", weights.stack, " has none");
  const std::int64_t width = mixed_width(stack);
  check(table_width == width, op, ": table must be [", num_rows, ", ", width, "] for this stack, got ", table_width,
        " columns");
  if (num_rows == 0) return;
  const std::int64_t chunk = chunk_of(num_rows, num_threads, sizes);
  const Scratches scratches(stack, sizes, chunk, 1, 0, num_threads);
  TransformerRows all{};
  all.stack = &stack, all.x_stride = whole(stack.width), all.qkv_stride = whole(width);
  const std::int64_t floats = chunk * (all.x_stride + all.qkv_stride);
  const Memory memory(num_threads * floats * 4);
  ask_huge_pages(table, num_rows * width * 4);
  each((num_rows + chunk - 1) / chunk, num_threads, [&](std::int64_t task, std::int64_t worker) {
    const std::int64_t begin = task * chunk;
    TransformerRows rows = all;
    rows.num_rows = std::min(num_rows - begin, chunk);
    rows.x = memory.as<float>() + worker * floats, rows.qkv = rows.x + chunk * rows.x_stride;
    copy_rows(given + begin * stack.width, rows.num_rows, stack.width, rows.x, rows.x_stride);
    GENREC_DISPATCH(transformer_mix(rows, 0, 0, rows.num_rows, scratches.of(worker)));
    for (std::int64_t row = 0; row < rows.num_rows; ++row)
      std::copy(rows.qkv + row * rows.qkv_stride, rows.qkv + row * rows.qkv_stride + width,
                table + (begin + row) * width);
  });
}

void transformer_cross(const TransformerWeights& weights, const float* given, std::int64_t given_rows,
                       const TransformerCache& cache, std::int64_t num_users, int num_threads) {
  const char* op = "transformer_cross";
  const TransformerSizes sizes = active_transformer_sizes();
  const ReadStack read = read_stack(op, weights, sizes);
  const TransformerStack& stack = read.stack;
  check(stack.cross_width > 0, op, ": stack must have cross-attention, but stack ", weights.stack, " has none");
  check_width(op, weights, stack.cross_width);
  if (num_users == 0) return;
  const std::int64_t longest = check_prompts(op, "offsets", cache.offsets, num_users);
  check_end(op, cache.offsets, num_users, given_rows);
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
  const Call call(op, args.weights, args.tables, args.cache, args.cross, args.num_users, args.depth + 1);
  const TransformerStack& stack = call.read.stack;
  check(args.users || (args.num_users >= 0 && args.num_beams >= 0 &&
                       (args.num_users == 0 || args.num_beams <= args.num_rows / args.num_users) &&
                       args.num_users * args.num_beams == args.num_rows),
        op, ": rows must be [", args.num_users, " * ", args.num_beams, ", D], got ", args.num_rows);
  const std::int64_t num_rows = args.num_rows;
  check(args.kept_floats == stack.num_layers * num_rows * 2 * stack.num_kv_heads * stack.head_width, op,
        ": kept must hold the keys and values of ", num_rows, " rows in ", stack.num_layers, " layers, got ",
        args.kept_floats, " floats");
  check(stack.causal, op, ": stack must be causal, but stack ", args.weights.stack, " is not");
  const std::int64_t own = stack.num_layers * 2 * stack.num_kv_heads * stack.head_width;
  for (std::int64_t step = 0; step < args.num_steps; ++step)
    check((args.chain[step] || args.chain_floats[step] == 0) && args.chain_rows[step] >= 0 &&
              args.chain_rows[step] == args.chain_floats[step] / own && args.chain_floats[step] % own == 0,
          op, ": chain[", step, "] must hold the keys and values of ", stack.num_layers, " layers for ",
          args.chain_rows[step], " rows of this stack, got ", args.chain_floats[step], " floats");
  check(args.parts || args.depth == args.num_steps || args.depth == 0, op, ": ancestors must be of ", args.num_steps,
        " steps, got ", args.depth);
  std::vector<std::int32_t> user_of, positions;
  bool apart = true;  // no row is another's ancestor
  for (std::int64_t row = 0; row < num_rows; ++row) {
    std::int64_t depth = 0;
    for (; depth < args.depth; ++depth) {
      const std::int32_t ancestor = args.ancestors[depth * num_rows + row];
      const std::int64_t part = args.parts ? args.parts[depth * num_rows + row] : depth;
      if (part == -1 && args.parts) break;
      check(part >= 0 && part <= args.num_steps, op, ": parts must be steps in [0, ", args.num_steps,
            "], or -1 behind the last, got ", part, " for row ", row);
      const std::int64_t below = part == args.num_steps ? row : args.chain_rows[part];
      check(ancestor >= 0 && ancestor < below, op, ": ancestors must be rows of step ", part, ", below ", below,
            ", got ", ancestor, " for row ", row);
      apart = apart && part < args.num_steps;
    }
    const std::int64_t user = args.users ? args.users[row] : row / args.num_beams;
    check(user >= 0 && user < args.num_users, op, ": users must be in [0, ", args.num_users, "), got ", user);
    user_of.push_back(static_cast<std::int32_t>(user));
    positions.push_back(static_cast<std::int32_t>(args.cache.offsets[user + 1] - args.cache.offsets[user] + depth));
  }
  check_first(op, stack, args.first, num_rows);
  if (num_rows == 0) return;
  // Chunks of whole users, where they are that small: their tiles have no tails.
  std::int64_t chunk = chunk_of(num_rows, args.num_threads, call.sizes);
  if (!args.users && args.num_beams <= chunk) chunk = (chunk + args.num_beams / 2) / args.num_beams * args.num_beams;
  const Scratches scratches(stack, call.sizes, chunk, std::max(call.longest, call.longest_cross), args.depth + 1,
                            args.num_threads);
  const TransformerRows all = call.rows(args.cache, args.cross);
  const std::int64_t floats = chunk * (all.x_stride + all.qkv_stride), tasks = (num_rows + chunk - 1) / chunk;
  const Memory memory((apart ? args.num_threads : tasks) * floats * 4 + read_beyond);
  ask_huge_pages(args.kept, args.kept_floats * 4);
  const auto rows_of = [&](std::int64_t task, std::int64_t place) {
    TransformerRows rows = all;
    rows.step = &args, rows.first_row = task * chunk, rows.num_rows = std::min(num_rows - rows.first_row, chunk);
    rows.users = user_of.data() + rows.first_row, rows.positions = positions.data() + rows.first_row;
    rows.x = memory.as<float>() + place * floats, rows.qkv = rows.x + chunk * rows.x_stride;
    look_up(args.first, rows);
    return rows;
  };
  const auto begin = [&](const TransformerRows& rows) {
    copy_rows(args.rows + rows.first_row * stack.width, rows.num_rows, stack.width, rows.x, rows.x_stride);
  };
  const auto read = [&](const TransformerRows& rows, std::int64_t layer, const TransformerScratch& scratch) {
    GENREC_DISPATCH(transformer_read(rows, layer, 0, rows.num_rows, scratch));
  };
  const auto attend = [&](const TransformerRows& rows, std::int64_t layer, const TransformerScratch& scratch) {
    GENREC_DISPATCH(transformer_attend(rows, layer, 0, rows.num_rows, scratch));
  };
  const auto finish = [&](const TransformerRows& rows, const TransformerScratch& scratch) {
    GENREC_DISPATCH(transformer_finish(rows, 0, rows.num_rows, args.hidden + rows.first_row * stack.width, scratch));
  };
  if (apart) {
    each(tasks, args.num_threads, [&](std::int64_t task, std::int64_t worker) {
      const TransformerRows rows = rows_of(task, worker);
      begin(rows);
      for (std::int64_t layer = 0; layer < stack.num_layers; ++layer)
        read(rows, layer, scratches.of(worker)), attend(rows, layer, scratches.of(worker));
      finish(rows, scratches.of(worker));
    });
    return;
  }
  // Rows of a tree see each other: every layer's keys are there before anybody attends.
  for (std::int64_t layer = 0; layer < stack.num_layers; ++layer) {
    each(tasks, args.num_threads, [&](std::int64_t task, std::int64_t worker) {
      if (layer == 0) begin(rows_of(task, task));
      read(rows_of(task, task), layer, scratches.of(worker));
    });
    each(tasks, args.num_threads, [&](std::int64_t task, std::int64_t worker) {
      attend(rows_of(task, task), layer, scratches.of(worker));
      if (layer + 1 == stack.num_layers) finish(rows_of(task, task), scratches.of(worker));
    });
  }
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
