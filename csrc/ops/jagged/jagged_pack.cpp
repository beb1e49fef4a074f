#include "ops/jagged/jagged_pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"

GENREC_PER_ISA(void segment_sum_part(const SegmentArgs& args, std::int64_t first, std::int64_t last, float* out);)

namespace genrec {
namespace {

constexpr std::int64_t bytes_per_fork = std::int64_t{1} << 20;  // about 100 us of copying on one thread

// Calls body(first, last) for stretches of rows, on several threads where there is work for them.
template <class Body>
void for_rows(std::int64_t num_rows, std::int64_t bytes, int num_threads, const Body& body) {
  const std::int64_t tasks =
      bytes < bytes_per_fork ? 1 : std::min<std::int64_t>(num_rows, std::int64_t{4} * num_threads);
  if (num_threads == 1 || tasks < 2) return body(std::int64_t{0}, num_rows);
  parallel_for(tasks, num_threads,
               [&](std::int64_t task) { body(num_rows * task / tasks, num_rows * (task + 1) / tasks); });
}

void copy(void* to, const void* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

const char* at(const void* base, std::int64_t offset) { return static_cast<const char*>(base) + offset; }
char* at(void* base, std::int64_t offset) { return static_cast<char*>(base) + offset; }

// `first` repeated until `total` bytes are full: what is there is doubled, a page at most at a time.
void repeat(char* to, const void* first, std::int64_t size, std::int64_t total) {
  if (total <= 0) return;
  copy(to, first, size);
  for (std::int64_t done = size; done < total;) {
    const std::int64_t step = std::min({done, total - done, std::max(size, 4096 / size * size)});
    copy(to + done, to, step);
    done += step;
  }
}

void check_ids(const std::int64_t* ids, std::int64_t count, std::int64_t table_rows) {
  bool outside = false;
  for (std::int64_t i = 0; i < count; ++i)
    outside |= static_cast<std::uint64_t>(ids[i]) >= static_cast<std::uint64_t>(table_rows);
  for (std::int64_t i = 0; outside && i < count; ++i)
    check(ids[i] >= 0 && ids[i] < table_rows, "embedding: ids must be in [0, ", table_rows, "), got ", ids[i],
          " at place ", i);
}

}  // namespace

void jagged_pad(const PackArgs& args, const void* values, std::int64_t max_len, const void* padding,
                std::int64_t item_size, void* padded) {
  const std::int64_t line = max_len * args.bytes;
  for_rows(args.num_rows, args.num_rows * line, args.num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t here = std::min(max_len, args.offsets[row + 1] - args.offsets[row]) * args.bytes;
      copy(at(padded, row * line), at(values, args.offsets[row] * args.bytes), here);
      repeat(at(padded, row * line + here), padding, item_size, line - here);
    }
  });
}

void jagged_unpad(const PackArgs& args, const void* padded, std::int64_t max_len, void* values) {
  const std::int64_t line = max_len * args.bytes, total = args.offsets[args.num_rows] * args.bytes;
  for_rows(args.num_rows, total, args.num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row) {
      const std::int64_t length = (args.offsets[row + 1] - args.offsets[row]) * args.bytes;
      const std::int64_t here = std::min(line, length);
      char* to = at(values, args.offsets[row] * args.bytes);
      copy(to, at(padded, row * line), here);
      if (length > here) std::memset(to + here, 0, static_cast<std::size_t>(length - here));
    }
  });
}

void jagged_spread(const PackArgs& args, const void* rows, void* values) {
  const std::int64_t total = args.offsets[args.num_rows] * args.bytes;
  for_rows(args.num_rows, total, args.num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t row = first; row < last; ++row)
      repeat(at(values, args.offsets[row] * args.bytes), at(rows, row * args.bytes), args.bytes,
             (args.offsets[row + 1] - args.offsets[row]) * args.bytes);
  });
}

namespace {

// Calls move(place in joined, part, place in part, bytes) for every row of every part.
template <class Move>
void for_parts(const JoinArgs& args, const Move& move) {
  std::int64_t total = 0;
  for (std::int64_t part = 0; part < args.num_parts; ++part) total += args.offsets[part][args.num_rows] * args.bytes;
  for_rows(args.num_rows, total, args.num_threads, [&](std::int64_t first, std::int64_t last) {
    std::int64_t place = 0;
    for (std::int64_t part = 0; part < args.num_parts; ++part) place += args.offsets[part][first] * args.bytes;
    for (std::int64_t row = first; row < last; ++row)
      for (std::int64_t part = 0; part < args.num_parts; ++part) {
        const std::int64_t begin = args.offsets[part][row] * args.bytes;
        const std::int64_t here = args.offsets[part][row + 1] * args.bytes - begin;
        move(place, part, begin, here);
        place += here;
      }
  });
}

}  // namespace

void jagged_join(const JoinArgs& args, const void* const* parts, void* joined) {
  for_parts(args, [&](std::int64_t place, std::int64_t part, std::int64_t begin, std::int64_t bytes) {
    copy(at(joined, place), at(parts[part], begin), bytes);
  });
}

void jagged_part(const JoinArgs& args, const void* joined, void* const* parts) {
  for_parts(args, [&](std::int64_t place, std::int64_t part, std::int64_t begin, std::int64_t bytes) {
    copy(at(parts[part], begin), at(joined, place), bytes);
  });
}

void gather_rows(const void* table, std::int64_t table_rows, std::int64_t bytes, const std::int64_t* ids,
                 std::int64_t count, int num_threads, void* out) {
  check_ids(ids, count, table_rows);
  for_rows(count, count * bytes, num_threads, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) copy(at(out, i * bytes), at(table, ids[i] * bytes), bytes);
  });
}

std::int64_t group_ids(const std::int64_t* ids, std::int64_t count, std::int64_t table_rows, std::int64_t* order,
                       std::int64_t* unique, std::int64_t* starts) {
  check_ids(ids, count, table_rows);
  constexpr int bits = 11;
  std::vector<std::int64_t> other(static_cast<std::size_t>(count));
  std::int64_t *from = other.data(), *to = order;
  for (std::int64_t i = 0; i < count; ++i) to[i] = i;
  for (int shift = 0; shift < 63 && (table_rows - 1) >> shift > 0; shift += bits) {
    std::swap(from, to);
    std::array<std::int64_t, (1 << bits) + 1> place{};
    const auto digit = [&](std::int64_t i) { return static_cast<std::size_t>(ids[i] >> shift & ((1 << bits) - 1)); };
    for (std::int64_t i = 0; i < count; ++i) ++place[digit(i) + 1];
    for (std::size_t d = 1; d < place.size(); ++d) place[d] += place[d - 1];
    for (std::int64_t i = 0; i < count; ++i) to[place[digit(from[i])]++] = from[i];
  }
  if (to != order) std::copy(to, to + count, order);
  std::int64_t groups = 0;
  for (std::int64_t i = 0; i < count; ++i)
    if (i == 0 || ids[order[i]] != ids[order[i - 1]]) {
      unique[groups] = ids[order[i]];
      starts[groups++] = i;
    }
  starts[groups] = count;
  return groups;
}

void segment_sum(const SegmentArgs& args, float* out) {
  const std::int64_t bytes = args.offsets[args.num_rows] * args.width * (args.element == 0 ? 4 : 2);
  for_rows(args.num_rows, bytes, args.num_threads,
           [&](std::int64_t first, std::int64_t last) { GENREC_DISPATCH(segment_sum_part(args, first, last, out)); });
}

}  // namespace genrec
