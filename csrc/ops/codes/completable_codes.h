// Which codes a partly written semantic ID may still get, whatever order it is written in.
#pragma once
#include <cstdint>

namespace genrec {

struct CompletableCodes {
  const void* item_codes;  // [num_items, num_levels], uint8 or int32
  int code_bytes;          // 1 or 4
  std::int64_t num_items, num_levels;
  const std::int64_t* bases;    // [num_levels + 1]: level l's codes are columns bases[l] .. bases[l + 1)
  const std::int32_t* written;  // [num_users, num_beams, num_levels], -1: masked
  std::int64_t num_users, num_beams;
  // Item n may be found by user b where allowed[b * allowed_stride + n] != 0; null: every item.
  const std::uint8_t* allowed;
  std::int64_t allowed_stride;
  // Ascending ids exclude_ids[exclude_offsets[b] .. exclude_offsets[b + 1]) are not found by user b; null: none.
  const std::int64_t* exclude_offsets;  // [num_users + 1]
  const std::int64_t* exclude_ids;
  std::int64_t num_excluded;  // of exclude_ids
  int num_threads;
  bool* codes;  // out [num_users, num_beams, width], width = bases[num_levels]
};

// codes[b][w][bases[l] + c]: level l of row (b, w) is masked, and an item that the user may find has code c there and
// the row's codes at all its other levels that are written.
//
// Throws ValueError where a code lies outside its level, or offsets are none.
// Cost: num_items for each level that some row has written (items in the order of their code), then for each row the
// items that have its rarest code; a row without a code looks at every item, but once where users have the same filter.
// Memory: 4 bytes for each item and each such level.
void completable_codes(const CompletableCodes& args);

}  // namespace genrec
