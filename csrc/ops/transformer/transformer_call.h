// What the calls of a transformer share: checks, the stack and its tables, and working memory by thread.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/transformer/transformer.h"
#include "ops/transformer/transformer_layout.h"

GENREC_PER_ISA(std::int64_t transformer_head_cell(const TransformerStack& stack, std::int64_t keys);)

namespace genrec {

constexpr std::int64_t vector_lanes = 16;
constexpr std::int64_t rows_per_task = 96;  // their activations stay in the second cache beside a group of panels

constexpr std::int64_t read_beyond = vector_lanes * 4;  // bytes: heads are rounded by whole vectors, the last one too

inline std::int64_t round_up(std::int64_t x, std::int64_t to) { return (x + to - 1) / to * to; }
inline std::int64_t whole(std::int64_t x) { return round_up(x, vector_lanes); }

// Channels of a row's queries, keys and values.
inline std::int64_t mixed_width(const TransformerStack& stack) {
  return (stack.num_heads + 2 * stack.num_kv_heads) * stack.head_width;
}

// Rows of one task: enough tasks for the threads, each of whole tiles.
inline std::int64_t chunk_of(std::int64_t num_rows, int num_threads, const TransformerSizes& sizes) {
  const std::int64_t share = (num_rows + num_threads - 1) / num_threads;
  return std::max(sizes.tile_rows, std::min(rows_per_task, round_up(share, sizes.tile_rows)));
}

// Where each user's keys begin within a layer of a cache, in floats; the last entry is the layer's size.
inline std::vector<std::int64_t> cells_of(const TransformerStack& stack, const std::int64_t* offsets,
                                          std::int64_t num_users) {
  const double most = 1e17;  // floats of a cache: far beyond any memory, far from the end of 64 bits
  const double width = static_cast<double>(stack.num_kv_heads * stack.head_width) * 4.0;
  check(static_cast<double>(stack.num_layers + 1) * width * static_cast<double>(offsets[num_users] + num_users + 64) <
            most,
        "transformer: offsets must describe a cache that fits into memory, got one of ", offsets[num_users], " rows");
  std::vector<std::int64_t> cells(static_cast<std::size_t>(num_users) + 1, 0);
  for (std::int64_t user = 0; user < num_users; ++user) {
    const std::int64_t keys = offsets[user + 1] - offsets[user];
    cells[static_cast<std::size_t>(user) + 1] =
        cells[static_cast<std::size_t>(user)] +
        stack.num_kv_heads * GENREC_DISPATCH(transformer_head_cell(stack, keys));
  }
  return cells;
}

inline void check_width(const char* op, const TransformerWeights& weights, std::int64_t width) {
  check(weights.rows_width == width, op, ": rows must have ", width, " channels, got ", weights.rows_width);
}

// Offsets from 0 that leave no user without a key; returns the longest row.
inline std::int64_t check_prompts(const char* op, const char* name, const std::int64_t* offsets,
                                  std::int64_t num_users) {
  check(offsets && num_users >= 0, op, ": ", name, " must be [B + 1], got none");
  check(offsets[0] == 0, op, ": ", name, " must start at 0, got ", offsets[0]);
  std::int64_t longest = 0;
  for (std::int64_t user = 0; user < num_users; ++user) {
    // The end is bounded first: a difference of two numbers of 64 bits may not fit into one.
    check(offsets[user + 1] >= 0 && offsets[user + 1] < std::int64_t{1} << 48, op, ": ", name,
          " must be below 2^48, got ", offsets[user + 1], " for user ", user);
    const std::int64_t length = offsets[user + 1] - offsets[user];
    check(length >= 1 && length < (std::int64_t{1} << 31), op, ": ", name,
          " must give every user at least one row, got ", length, " for user ", user);
    longest = std::max(longest, length);
  }
  return longest;
}

inline void check_end(const char* op, const std::int64_t* offsets, std::int64_t num_users, std::int64_t num_rows) {
  check(offsets[num_users] == num_rows, op, ": offsets must end at the number of rows ", num_rows, ", got ",
        offsets[num_users]);
}

inline void check_cache(const char* op, const char* name, const TransformerStack& stack, const TransformerCache& cache,
                        const std::vector<std::int64_t>& cells) {
  check(cache.num_floats == stack.num_layers * cells.back(), op, ": ", name, " must hold ",
        stack.num_layers * cells.back(), " floats for these offsets, got ", cache.num_floats);
}

inline void check_first(const char* op, const TransformerStack& stack, const TransformerFirst& first,
                        std::int64_t num_rows) {
  check(!first.table || first.width == mixed_width(stack), op, ": first_table must be [V, ", mixed_width(stack),
        "] for this stack, got ", first.width, " columns");
  check(!first.table || first.tokens || num_rows == 0, op, ": tokens must be given with first_table, got none");
  for (std::int64_t row = 0; first.table && row < num_rows; ++row)
    check(first.tokens[row] >= 0 && first.tokens[row] < first.num_tokens, op, ": tokens must be in [0, ",
          first.num_tokens, "), got ", first.tokens[row], " for row ", row);
}

inline void look_up(const TransformerFirst& first, TransformerRows& rows) {
  if (first.table) rows.first_table = first.table, rows.tokens = first.tokens + rows.first_row;
}

// The caller's table with room for whole vectors behind each head, moved to distance 0.
struct Distances {
  Memory memory;
  TransformerTables tables;

  Distances(const char* op, const TransformerStack& stack, const TransformerTables& given, std::int64_t longest)
      : tables(given) {
    // A table of no positions has no address either.
    check(!stack.rotary_width || given.rotary || given.rotary_width == stack.rotary_width, op,
          ": rotary must be given for this stack, got none");
    check(!stack.rotary_width || given.rotary_width == stack.rotary_width, op, ": rotary must be [P, ",
          stack.rotary_width, "] for this stack, got ", given.rotary_width, " columns");
    check(!stack.rotary_width || longest <= given.num_positions, op, ": rotary must have ", longest, " positions, got ",
          given.num_positions);
    if (!given.distance) return;
    check(given.distance_heads == stack.num_heads, op, ": distance must have ", stack.num_heads,
          " heads for this stack, got ", given.distance_heads);
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

inline void copy_rows(const float* from, std::int64_t num_rows, std::int64_t width, float* to, std::int64_t stride) {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    std::copy(from + row * width, from + (row + 1) * width, to + row * stride);
    std::fill(to + row * stride + width, to + (row + 1) * stride, 0.0f);
  }
}

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
    check(cross.offsets && (cross.values || cross.num_floats == 0), op,
          ": cross must be given for a stack with cross-attention");
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
    out.qkv_stride = whole(mixed_width(read.stack));
    return out;
  }
};

}  // namespace genrec
