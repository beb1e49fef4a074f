#include "ops/trie/expand_rows.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/parallel.h"
#include "ops/trie/trie_shape.h"

namespace genrec {
namespace {

constexpr const char* op = "expand_rows";

// Larger for what comes earlier: ranks as integers in their order, both zeros equal.
std::uint64_t key_of(double rank) {
  if (std::isnan(rank)) return std::numeric_limits<std::uint64_t>::max();
  const auto bits = std::bit_cast<std::uint64_t>(rank + 0.0);
  return bits >> 63 ? ~bits : bits | std::uint64_t{1} << 63;
}

struct Found {
  std::uint64_t key;
  std::int32_t item, beam;
};

bool before(const Found& a, const Found& b) {
  if (a.key != b.key) return a.key > b.key;
  return a.item != b.item ? a.item < b.item : a.beam < b.beam;
}

// The best of what was added: never more than four times `keep`, so that a cut costs about what the additions did.
struct Best {
  std::int64_t keep;
  std::vector<Found> found;
  std::uint64_t floor = 0;  // what has a lower key is not among them

  void add(const Found& one) {
    found.push_back(one);
    if (static_cast<std::int64_t>(found.size()) >= 4 * keep) cut();
  }
  void cut() {
    if (static_cast<std::int64_t>(found.size()) <= keep) return;
    std::nth_element(found.begin(), found.begin() + keep - 1, found.end(), before);
    found.resize(static_cast<std::size_t>(keep));
    floor = found.back().key;
  }
};

// One task's memory.
struct Search {
  const ExpandRows& args;
  Best best{args.k, {}};
  std::vector<std::int64_t> excluded;  // of the user at hand, ascending

  void take_excluded(std::int64_t user) {
    if (!args.exclude_offsets) return;
    excluded.assign(args.exclude_ids + args.exclude_offsets[user], args.exclude_ids + args.exclude_offsets[user + 1]);
    for (const std::int64_t item : excluded)
      check(item >= 0 && item < args.num_items, op, ": exclude must hold item ids in [0, ", args.num_items, "), got ",
            item, " for user ", user);
    std::sort(excluded.begin(), excluded.end());
  }

  bool shown(std::int64_t user, std::int64_t item) const {
    if (args.allowed && !args.allowed[user * args.allowed_stride + item]) return false;
    return !std::binary_search(excluded.begin(), excluded.end(), item);
  }

  double rank(std::int64_t at) const {
    if (args.rank_bytes == 4) return static_cast<const float*>(args.ranks)[at];
    return static_cast<const double*>(args.ranks)[at];
  }

  void add_row(std::int64_t user, std::int64_t beam) {
    const std::int64_t at = user * args.num_beams + beam, row = args.rows[at];
    if (row < 0) return;
    check(row < args.num_rows, op, ": rows must be below ", args.num_rows, ", got ", row, " for user ", user, ", beam ",
          beam);
    const std::uint64_t key = key_of(rank(at));
    if (key < best.floor) return;
    const std::int64_t begin = offset_at(args.leaf, row), end = offset_at(args.leaf, row + 1);
    check(0 <= begin && begin <= end && end <= args.num_items, op, ": leaf_offsets must be in [0, ", args.num_items,
          "], got ", begin, " to ", end, " for row ", row);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int32_t item = args.leaf_items[i];
      check(item >= 0 && item < args.num_items, op, ": leaf_items must be in [0, ", args.num_items, "), got ", item,
            " for row ", row);
      if (shown(user, item)) best.add({key, item, static_cast<std::int32_t>(beam)});
    }
  }

  void write(std::int64_t user) {
    std::sort(best.found.begin(), best.found.end(), before);
    const auto count = std::min<std::int64_t>(args.k, static_cast<std::int64_t>(best.found.size()));
    const std::int64_t first = user * args.k, levels = args.num_levels;
    for (std::int64_t i = 0; i < count; ++i) {
      const Found& one = best.found[static_cast<std::size_t>(i)];
      const std::int64_t from = user * args.num_beams + one.beam;
      args.items[first + i] = one.item;
      args.found_scores[first + i] = args.scores[from];
      std::copy_n(args.codes + from * levels, levels, args.found_codes + (first + i) * levels);
    }
    std::fill_n(args.items + first + count, args.k - count, -1);
    std::fill_n(args.found_scores + first + count, args.k - count, -std::numeric_limits<float>::infinity());
    std::fill_n(args.found_codes + (first + count) * levels, (args.k - count) * levels, -1);
  }

  void run(std::int64_t user) {
    best.found.clear();
    best.floor = 0;
    take_excluded(user);
    for (std::int64_t beam = 0; beam < args.num_beams; ++beam) add_row(user, beam);
    best.cut();
    write(user);
  }
};

void check_exclude(const ExpandRows& args) {
  if (!args.exclude_offsets) return;
  for (std::int64_t user = 0; user < args.num_users; ++user) {
    const std::int64_t begin = args.exclude_offsets[user], end = args.exclude_offsets[user + 1];
    check(0 <= begin && begin <= end && end <= args.num_excluded, op,
          ": exclude must have offsets that do not decrease up to ", args.num_excluded, ", got ", begin, " to ", end,
          " for user ", user);
  }
}

}  // namespace

void expand_rows(const ExpandRows& args) {
  check_packed(op, "trie", args.leaf, args.num_rows);
  check(args.k >= 1, op, ": k must be at least 1, got ", args.k);
  check(args.num_beams < std::int64_t{1} << 31, op, ": beams must be below 2^31, got ", args.num_beams);
  check_exclude(args);
  if (args.num_users == 0) return;
  // A beam takes some 20 ns where rows have an item each; below 100 us a second thread does not pay.
  const bool worth = args.num_users * (args.num_beams + args.k) > 5000;
  const std::int64_t threads = worth ? std::max(1, args.num_threads) : 1;
  const std::int64_t tasks = std::min(args.num_users, threads == 1 ? 1 : 4 * threads);
  parallel_for(tasks, static_cast<int>(threads), [&](std::int64_t task) {
    Search search{args};
    const std::int64_t until = args.num_users * (task + 1) / tasks;
    for (std::int64_t user = args.num_users * task / tasks; user < until; ++user) search.run(user);
  });
}

}  // namespace genrec
