// Which items a user may find, as ops over a whole catalog take it.
#pragma once
#include "bindings/arguments.h"

namespace genrec::bindings {

// Fills allowed, allowed_stride and the lists of an op's arguments for users [B] and items [N].
template <class Args>
void take_item_filter(Arguments& given, std::int64_t users, std::int64_t items, Args& args) {
  args.allowed = reinterpret_cast<const std::uint8_t*>(given.maybe<bool>("allowed", "U N"));
  const std::int64_t rows = given.size('U');
  check(args.allowed == nullptr || rows == 1 || rows == users, given.op(),
        ": allowed must have one row or one per user, got ", rows);
  args.allowed_stride = rows < users ? 0 : items;
  args.exclude_ids = given.maybe<std::int64_t>("exclude_ids", "X");
  args.exclude_offsets = given.maybe<std::int64_t>("exclude_offsets", "B+1");
  args.num_excluded = given.size('X');
}

}  // namespace genrec::bindings
