#include <cstdint>

#include "core/vec.h"
#include "ops/codes/code_rows.h"
#include "ops/codes/code_sums.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr int items_beside = 4;             // of a pass of sixteen users; 8 are no faster (200,000 items: 9.3, 9.5 ms)
constexpr std::int64_t items_checked = 64;  // whose codes are looked at before they are followed

bool excluded(const CodeBest& best, std::int64_t id) {
  std::int64_t low = 0, high = best.num_excluded;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (best.exclude[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < best.num_excluded && best.exclude[low] == id;
}

inline void offer(CodeScan& scan, std::int64_t user, std::int64_t id, float score) {
  CodeBest& best = scan.best[user];
  if (best.allowed && best.allowed[id] == 0) return;
  if (best.num_excluded != 0 && excluded(best, id)) return;
  best.entries[best.count++] = {score, static_cast<std::int32_t>(id)};
  if (best.count == best.capacity) scan.compact(scan, user);
}

template <class Code>
void one_user(CodeScan& scan, std::int64_t user, std::int64_t first, std::int64_t last) {
  const CodeSums& sums = *scan.sums;
  const CodeBest& best = scan.best[user];
  const Code* codes = static_cast<const Code*>(sums.item_codes);
  const float* logprobs = sums.logprobs + (scan.first_user + user) * sums.width;
  const float* threshold = best.bars + scan.num_bars * best.stride;
  const Code* rows[items_together];
  float found[items_together];
  for (std::int64_t n = first; n < last; n += items_together) {
    const std::int64_t there = last - n < items_together ? last - n : items_together;
    for (int i = 0; i < items_together; ++i) rows[i] = codes + (n + (i < there ? i : 0)) * sums.num_levels;
    if (!sums_of(logprobs, rows, sums, best, found)) continue;
    for (std::int64_t i = 0; i < there; ++i)
      if (found[i] >= *threshold) offer(scan, user, n + i, found[i]);
  }
}

template <class Code>
void many_users(CodeScan& scan, std::int64_t first, std::int64_t last) {
  const CodeSums& sums = *scan.sums;
  const std::int64_t levels = sums.num_levels;
  const Code* codes = static_cast<const Code*>(sums.item_codes);
  const float* thresholds = scan.bars + scan.num_bars * code_lanes;
  for (std::int64_t n = first; n < last; n += items_beside) {
    const std::int64_t there = last - n < items_beside ? last - n : items_beside;
    const Code* rows[items_beside];
    for (int i = 0; i < items_beside; ++i) rows[i] = codes + (n + (i < there ? i : 0)) * levels;
    Vec total[items_beside];
    for (Vec& sum : total) sum = fill(0.0f);
    bool open = true;
    std::int64_t level = 0;
    for (std::int64_t bar = 0; open && level < levels; ++bar) {
      std::int64_t until = level + check_levels;
      const bool whole = until <= levels;
      if (!whole) until = levels;
      for (; level < until; ++level) {
        const float* own = scan.turned + sums.bases[level] * code_lanes;
        for (int i = 0; i < items_beside; ++i)
          total[i] = total[i] + load(own + static_cast<std::int64_t>(rows[i][level]) * code_lanes);
      }
      if (!whole) break;
      const Vec least = load(scan.bars + bar * code_lanes);
      Mask any = 0;
      for (int i = 0; i < items_beside; ++i) any |= at_least(total[i], least);
      open = any != 0;
    }
    if (!open) continue;
    for (std::int64_t i = 0; i < there; ++i) {
      Mask found = at_least(total[i], load(thresholds));
      if (found == 0) continue;
      float line[lanes];
      store(line, total[i]);
      for (; found != 0; found &= found - 1) offer(scan, lowest(found), n + i, line[lowest(found)]);
    }
  }
}

template <class Code>
std::int64_t scan_codes(CodeScan& scan, std::int64_t first, std::int64_t last) {
  const CodeSums& sums = *scan.sums;
  const Code* codes = static_cast<const Code*>(sums.item_codes);
  bool safe = sizeof(Code) == 1;  // no byte lies outside a level of 256
  for (std::int64_t level = 0; level < sums.num_levels; ++level)
    safe &= sums.bases[level + 1] - sums.bases[level] >= 256;
  for (std::int64_t from = first; from < last; from += items_checked) {
    const std::int64_t until = last - from < items_checked ? last : from + items_checked;
    for (std::int64_t n = from; !safe && n < until; ++n)
      if (!codes_fit(codes + n * sums.num_levels, sums.bases, sums.num_levels)) return n;
    if (scan.turned)
      many_users<Code>(scan, from, until);
    else
      for (std::int64_t user = 0; user < scan.num_users; ++user) one_user<Code>(scan, user, from, until);
  }
  return -1;
}

}  // namespace

// Offers items [first, last) to all users of the scan; an item with a wrong code, or -1.
std::int64_t code_scan(CodeScan& scan, std::int64_t first, std::int64_t last) {
  return scan.sums->code_bytes == 1 ? scan_codes<std::uint8_t>(scan, first, last)
                                    : scan_codes<std::int32_t>(scan, first, last);
}

}  // namespace genrec::GENREC_ISA
