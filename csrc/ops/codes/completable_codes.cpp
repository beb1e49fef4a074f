#include "ops/codes/completable_codes.h"

#include <algorithm>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "core/parallel.h"

namespace genrec {
namespace {

constexpr const char* op = "completable_codes";

// Items in the order of their code at a level, then of their id.
struct Lists {
  std::vector<std::int64_t> starts;  // [width + num_levels]: level l's codes begin at bases[l] + l
  std::vector<std::int32_t*> items;  // per level, num_items of them; null: no row has written it
  std::vector<Memory> memory;
};

template <class Code>
struct Search {
  const CompletableCodes& args;
  const Code* codes;
  std::int64_t width;
  Lists lists;
  std::vector<std::uint8_t> all;  // [width]: the codes of a row without a code, for users without a filter of their own

  explicit Search(const CompletableCodes& given)
      : args(given), codes(static_cast<const Code*>(given.item_codes)), width(given.bases[given.num_levels]) {}

  bool own_filter(std::int64_t user) const {
    return (args.allowed && args.allowed_stride != 0) ||
           (args.exclude_offsets && args.exclude_offsets[user] < args.exclude_offsets[user + 1]);
  }

  bool found(std::int64_t user, std::int64_t item) const {
    if (args.allowed && !args.allowed[user * args.allowed_stride + item]) return false;
    if (!args.exclude_offsets) return true;
    const std::int64_t* ids = args.exclude_ids;
    return !std::binary_search(ids + args.exclude_offsets[user], ids + args.exclude_offsets[user + 1], item);
  }

  void check_items() const {
    for (std::int64_t n = 0; n < args.num_items; ++n)
      for (std::int64_t l = 0; l < args.num_levels; ++l) {
        const std::int64_t code = codes[n * args.num_levels + l], size = args.bases[l + 1] - args.bases[l];
        check(code >= 0 && code < size, op, ": item_codes of level ", l, " must be in [0, ", size, "), got ", code,
              " for item ", n);
      }
  }

  void make_lists(const std::vector<bool>& needed) {
    const auto levels = static_cast<std::size_t>(args.num_levels);
    lists.starts.assign(static_cast<std::size_t>(width) + levels, 0);
    lists.items.assign(levels, nullptr);
    lists.memory.reserve(levels);
    for (std::size_t l = 0; l < levels; ++l) {
      if (!needed[l]) continue;
      const auto level = static_cast<std::int64_t>(l);
      lists.memory.emplace_back(args.num_items * 4);
      auto* const items = lists.items[l] = lists.memory.back().as<std::int32_t>();
      std::int64_t* const starts = lists.starts.data() + args.bases[level] + level;
      const std::int64_t size = args.bases[level + 1] - args.bases[level];
      for (std::int64_t n = 0; n < args.num_items; ++n) ++starts[codes[n * args.num_levels + level] + 1];
      for (std::int64_t c = 0; c < size; ++c) starts[c + 1] += starts[c];
      std::vector<std::int64_t> next(starts, starts + size);
      for (std::int64_t n = 0; n < args.num_items; ++n)
        items[next[static_cast<std::size_t>(codes[n * args.num_levels + level])]++] = static_cast<std::int32_t>(n);
    }
  }

  // Marks the codes of an item at the levels that are masked, if it has the row's others.
  void mark(const std::int32_t* row, std::int64_t item, bool* out) const {
    const Code* own = codes + item * args.num_levels;
    for (std::int64_t l = 0; l < args.num_levels; ++l)
      if (row[l] >= 0 && row[l] != static_cast<std::int32_t>(own[l])) return;
    for (std::int64_t l = 0; l < args.num_levels; ++l)
      if (row[l] < 0) out[args.bases[l] + own[l]] = true;
  }

  void row(std::int64_t user, std::int64_t beam) const {
    const std::int32_t* own = args.written + (user * args.num_beams + beam) * args.num_levels;
    bool* const out = args.codes + (user * args.num_beams + beam) * width;
    std::int64_t rarest = -1, count = args.num_items, first = 0;
    bool masked = false;
    for (std::int64_t l = 0; l < args.num_levels; ++l) {
      masked |= own[l] < 0;
      if (own[l] < 0) continue;
      const std::int64_t* const starts = lists.starts.data() + args.bases[l] + l + own[l];
      if (rarest >= 0 && starts[1] - starts[0] >= count) continue;
      rarest = l;
      first = starts[0];
      count = starts[1] - starts[0];
    }
    if (rarest < 0 && !own_filter(user) && !all.empty()) {
      std::copy_n(all.data(), width, out);
      return;
    }
    std::fill_n(out, width, false);
    if (!masked) return;
    const std::int32_t* const items = rarest < 0 ? nullptr : lists.items[static_cast<std::size_t>(rarest)] + first;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t item = items ? items[i] : i;
      if (found(user, item)) mark(own, item, out);
    }
  }

  // What is written is checked; true for the levels that some row has written.
  std::vector<bool> check_written(bool* any_free) const {
    std::vector<bool> needed(static_cast<std::size_t>(args.num_levels), false);
    for (std::int64_t at = 0; at < args.num_users * args.num_beams; ++at) {
      const std::int32_t* row = args.written + at * args.num_levels;
      bool known = false;
      for (std::int64_t l = 0; l < args.num_levels; ++l) {
        const std::int64_t size = args.bases[l + 1] - args.bases[l];
        check(row[l] >= -1 && row[l] < size, op, ": written must be in [-1, ", size, ") at level ", l, ", got ", row[l],
              " for user ", at / args.num_beams);
        if (row[l] >= 0) needed[static_cast<std::size_t>(l)] = known = true;
      }
      *any_free |= !known && !own_filter(at / args.num_beams);
    }
    return needed;
  }

  void run() {
    if (args.num_users * args.num_beams == 0) return;
    bool any_free = false;
    const std::vector<bool> needed = check_written(&any_free);
    check_items();
    make_lists(needed);
    if (any_free) {
      all.assign(static_cast<std::size_t>(width), 0);
      for (std::int64_t n = 0; n < args.num_items; ++n) {
        if (args.allowed && !args.allowed[n]) continue;
        for (std::int64_t l = 0; l < args.num_levels; ++l)
          all[static_cast<std::size_t>(args.bases[l] + codes[n * args.num_levels + l])] = 1;
      }
    }
    const std::int64_t rows = args.num_users * args.num_beams;
    const bool worth = static_cast<double>(rows) * static_cast<double>(width) >= 1e6;  // some 100 us of one thread
    const std::int64_t threads = worth ? std::max(1, args.num_threads) : 1;
    const std::int64_t tasks = std::min(rows, threads == 1 ? 1 : 4 * threads);
    parallel_for(tasks, static_cast<int>(threads), [&](std::int64_t task) {
      const std::int64_t until = rows * (task + 1) / tasks;
      for (std::int64_t at = rows * task / tasks; at < until; ++at) row(at / args.num_beams, at % args.num_beams);
    });
  }
};

void check_exclude(const CompletableCodes& args) {
  if (!args.exclude_offsets) return;
  const std::int64_t *offsets = args.exclude_offsets, users = args.num_users;
  check(offsets[0] == 0, op, ": exclude's offsets must start at 0, got ", offsets[0]);
  for (std::int64_t b = 0; b < users; ++b)
    check(offsets[b] <= offsets[b + 1], op, ": exclude's offsets must not decrease, but do after row ", b);
  check(offsets[users] == args.num_excluded, op, ": exclude's offsets must end at ", args.num_excluded, ", got ",
        offsets[users]);
}

}  // namespace

void completable_codes(const CompletableCodes& args) {
  check_exclude(args);
  if (args.code_bytes == 1)
    Search<std::uint8_t>(args).run();
  else
    Search<std::int32_t>(args).run();
}

}  // namespace genrec
