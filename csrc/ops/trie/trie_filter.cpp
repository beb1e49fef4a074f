#include "ops/trie/trie_filter.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "core/check.h"
#include "ops/trie/trie_shape.h"

namespace genrec {

void trie_filter_allow(const std::int32_t* item_rows, std::int64_t num_items, const std::uint8_t* allowed,
                       std::int64_t allowed_items, std::int64_t users, std::int64_t num_rows, std::uint64_t* bits,
                       std::int32_t* ranks) {
  check(allowed_items == num_items, "trie_filter: allowed must have one entry for each of ", num_items, " items, got ",
        allowed_items);
  check(num_rows >= 1, "trie_filter: trie must have rows, got ", num_rows);
  const std::int64_t words = num_rows / 64 + 1;
  for (std::int64_t user = 0; user < users; ++user, allowed += num_items, bits += words, ranks += words) {
    std::fill(bits, bits + words, std::uint64_t{0});
    const auto allow = [&](std::int64_t item) {
      const std::int32_t row = item_rows[item];
      check(row >= 0 && row < num_rows, "trie_filter: item_rows must be in [0, ", num_rows, "), got ", row,
            " for item ", item);
      bits[row >> 6] |= std::uint64_t{1} << (row & 63);
    };
    std::int64_t item = 0;
    for (; item + 8 <= num_items; item += 8) {
      std::uint64_t eight;  // most filters are sparse or dense: skip eight at once where none is allowed
      std::memcpy(&eight, allowed + item, 8);
      if (eight == 0) continue;
      for (std::int64_t i = item; i < item + 8; ++i)
        if (allowed[i]) allow(i);
    }
    for (; item < num_items; ++item)
      if (allowed[item]) allow(item);
    std::int32_t before = 0;
    for (std::int64_t word = 0; word < words; ++word) {
      ranks[word] = before;
      before += std::popcount(bits[word]);
    }
  }
}

void trie_filter_exclude(const RowItems& catalog, const std::uint8_t* allowed, std::int64_t allowed_items,
                         std::int64_t allowed_users, const std::int64_t* items, std::int64_t num_values,
                         const std::int64_t* offsets, std::int64_t users, std::int32_t* rows,
                         std::int64_t* row_offsets) {
  check_packed("trie_filter", "trie", catalog.leaf, catalog.num_rows);
  check(catalog.num_leaf_items == catalog.num_items, "trie_filter: leaf_items must be ", catalog.num_items, ", got ",
        catalog.num_leaf_items);
  check(!allowed || (allowed_items == catalog.num_items && (allowed_users == 1 || allowed_users == users)),
        "trie_filter: allowed must be of ", catalog.num_items, " items for one or ", users, " users, got ",
        allowed_items, " for ", allowed_users);
  std::vector<std::pair<std::int32_t, std::int64_t>> listed;  // (row, item)
  std::int64_t count = 0;
  row_offsets[0] = 0;
  for (std::int64_t user = 0; user < users; ++user) {
    const std::uint8_t* kept = allowed ? allowed + (allowed_users > 1 ? user : 0) * catalog.num_items : nullptr;
    check(offsets[user] >= 0 && offsets[user] <= offsets[user + 1] && offsets[user + 1] <= num_values,
          "trie_filter: exclude must have offsets that do not decrease up to ", num_values, ", got ", offsets[user],
          " to ", offsets[user + 1], " for user ", user);
    listed.clear();
    for (std::int64_t i = offsets[user]; i < offsets[user + 1]; ++i) {
      const std::int64_t item = items[i];
      check(item >= 0 && item < catalog.num_items, "trie_filter: exclude must hold item ids in [0, ", catalog.num_items,
            "), got ", item, " for user ", user);
      if (kept && !kept[item]) continue;  // already gone
      const std::int32_t row = catalog.item_rows[item];
      check(row >= 0 && row < catalog.num_rows, "trie_filter: item_rows must be in [0, ", catalog.num_rows, "), got ",
            row, " for item ", item);
      listed.emplace_back(row, item);
    }
    std::sort(listed.begin(), listed.end());
    listed.erase(std::unique(listed.begin(), listed.end()), listed.end());
    for (std::size_t i = 0; i < listed.size();) {
      const std::int32_t row = listed[i].first;
      std::int64_t lost = 0;
      for (; i < listed.size() && listed[i].first == row; ++i) ++lost;
      const std::int64_t begin = offset_at(catalog.leaf, row), end = offset_at(catalog.leaf, row + 1);
      check(0 <= begin && begin <= end && end <= catalog.num_items, "trie_filter: leaf offsets must be in [0, ",
            catalog.num_items, "], got ", begin, " to ", end, " for row ", row);
      std::int64_t left = end - begin;
      if (kept && left > 1) {
        left = 0;
        for (std::int64_t at = begin; at < end; ++at) {
          const std::int32_t item = catalog.leaf_items[at];
          check(item >= 0 && item < catalog.num_items, "trie_filter: leaf_items must be in [0, ", catalog.num_items,
                "), got ", item, " for row ", row);
          left += kept[item] ? 1 : 0;
        }
      }
      if (lost >= left) rows[count++] = row;
    }
    row_offsets[user + 1] = count;
  }
  std::fill(rows + count, rows + num_values, 0);
}

}  // namespace genrec
