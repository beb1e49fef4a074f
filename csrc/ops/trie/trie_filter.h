// Filters over the rows of a trie: one bit per row and ranks, plus each user's short list of excluded rows.
// A subtree covers a range of rows, so whether anything in it passes takes two look-ups of each.
#pragma once
#include <cstdint>

#include "ops/trie/trie.h"

namespace genrec {

struct RowFilter {
  const std::uint64_t* bits;             // [U, words]: bit r % 64 of word r / 64; null: every row is allowed
  const std::int32_t* ranks;             // [U, words]: allowed rows before the word
  std::int64_t words;                    // R / 64 + 1
  std::int64_t users;                    // U: 1 or B
  const std::int32_t* excluded;          // ascending allowed rows per user, or null
  const std::int64_t* excluded_offsets;  // [B + 1], or null: no lists
  std::int64_t num_excluded;             // entries of `excluded`
  std::int64_t excluded_users;           // B
};

// item_rows [N], allowed [U, N] (bytes 0 or 1) -> bits, ranks [U, num_rows / 64 + 1]: a row is allowed if any of its
// items is. Throws ValueError where a row is outside [0, num_rows), or allowed is not of these items. Cost per user: N
// / 8 loads, one write per allowed item, R / 64 words.
void trie_filter_allow(const std::int32_t* item_rows, std::int64_t num_items, const std::uint8_t* allowed,
                       std::int64_t allowed_items, std::int64_t users, std::int64_t num_rows, std::uint64_t* bits,
                       std::int32_t* ranks);

// The items of every row.
struct RowItems {
  const std::int32_t* item_rows;   // [N]
  std::int64_t num_items;          // N
  PackedOffsets leaf;              // items of row r: leaf_items[off(r) .. off(r + 1))
  const std::int32_t* leaf_items;  // [N]
  std::int64_t num_rows;           // R
  std::int64_t num_leaf_items;     // entries of leaf_items: N
};

// items [E] with offsets [B + 1], allowed [U, N] or null -> rows [E], row_offsets [B + 1]: the rows that lose their
// last allowed item to the user's list, ascending; entries behind row_offsets[B] are 0. Throws ValueError for an item
// outside [0, N) or bad offsets. Cost: a sort of each list.
void trie_filter_exclude(const RowItems& catalog, const std::uint8_t* allowed, std::int64_t allowed_items,
                         std::int64_t allowed_users, const std::int64_t* items, std::int64_t num_values,
                         const std::int64_t* offsets, std::int64_t users, std::int32_t* rows,
                         std::int64_t* row_offsets);

}  // namespace genrec
