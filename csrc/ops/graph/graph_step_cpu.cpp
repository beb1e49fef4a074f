#include <cstdint>

#include "core/vec.h"
#include "ops/codes/code_rows.h"
#include "ops/graph/graph_step.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr std::int64_t ids_ahead = 16;  // whose codes are asked for before they are read

template <class Code>
std::int64_t score(CodeScan& scan, const std::int32_t* ids, std::int64_t count) {
  const CodeSums& sums = *scan.sums;
  CodeBest& best = scan.best[0];
  const Code* codes = static_cast<const Code*>(sums.item_codes);
  const float* logprobs = sums.logprobs + scan.first_user * sums.width;
  const float* threshold = best.bars + scan.num_bars * best.stride;
  const Code* rows[items_together];
  float found[items_together];
  for (std::int64_t at = 0; at < count; at += items_together) {
    const std::int64_t there = count - at < items_together ? count - at : items_together;
    for (std::int64_t i = at + ids_ahead; i < at + ids_ahead + items_together && i < count; ++i)
      prefetch(codes + ids[i] * sums.num_levels);
    for (int i = 0; i < items_together; ++i) {
      rows[i] = codes + ids[at + (i < there ? i : 0)] * sums.num_levels;
      if (!codes_fit(rows[i], sums.bases, sums.num_levels)) return ids[at + (i < there ? i : 0)];
    }
    if (!sums_of(logprobs, rows, sums, best, found)) continue;
    for (std::int64_t i = 0; i < there; ++i) {
      if (!(found[i] >= *threshold)) continue;
      best.entries[best.count++] = {found[i], ids[at + i]};
      if (best.count == best.capacity) scan.compact(scan, 0);
    }
  }
  return -1;
}

}  // namespace

// Takes in the neighbours of one row that no row before had: marks in `seen`, ids behind `found`. The place of a wrong
// one, or -1.
std::int64_t graph_gather(const std::int32_t* row, std::int64_t count, std::int64_t num_items, std::uint64_t* seen,
                          std::int32_t* found, std::int64_t* num_found) {
  std::int64_t known = *num_found;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = row[i];
    if (id < 0 || id >= num_items) {
      if (id == -1) continue;
      return i;
    }
    std::uint64_t& word = seen[id >> 6];
    const std::uint64_t bit = std::uint64_t{1} << (id & 63);
    if ((word & bit) != 0) continue;
    word |= bit;
    found[known++] = static_cast<std::int32_t>(id);
  }
  *num_found = known;
  return -1;
}

// Offers items ids[0 .. count) to the scan's one user; an item with a wrong code, or -1.
std::int64_t graph_score(CodeScan& scan, const std::int32_t* ids, std::int64_t count) {
  return scan.sums->code_bytes == 1 ? score<std::uint8_t>(scan, ids, count) : score<std::int32_t>(scan, ids, count);
}

}  // namespace genrec::GENREC_ISA
