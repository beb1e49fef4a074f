// The drafts of some users as trees below what was read of them: which prefixes are new, and behind which row each is.
#pragma once
#include <cstdint>

namespace genrec {

struct DraftTreeArgs {
  std::int64_t users, rows;         // B, R
  const std::int64_t* row_parents;  // [B, R]: the row that each extends
  const std::int32_t* row_codes;    // [B, R]: what it wrote; -1: it is not looked up
  const std::int64_t* above;        // [B, num_above]: rows, below which the first level was drafted
  std::int64_t num_above;
  const std::int64_t* levels;  // [B]: of the first level's codes
  // Level below level, [B, widths[d]] each. A node below 0: no prefix. Parents: places in the level above, or in
  // `above`.
  std::int64_t depth;
  const std::int32_t* const* nodes;
  const std::int64_t* const* parents;
  const std::int32_t* const* codes;
  const std::int64_t* widths;
};

struct DraftTreeOutputs {  // all overwritten; S: the sum of the widths
  std::int32_t* nodes;     // [B, S], as all of a row: in the order of the levels; -1 behind a user's last
  std::int64_t* parents;   // [B, S]: the number of the row above, 0 behind the last
  std::int32_t* codes;     // [B, S]: -1 behind the last
  std::int64_t* levels;    // [B, S]: of the row's code, 0 behind the last
  std::int64_t* counts;    // [B]: new rows
  std::int64_t* numbers;   // [B, S]: of each drafted prefix its row, new ones from R on; -1: no prefix
};

// Throws ValueError where a parent is no prefix, a code below 0, or a row's parent outside.
// Cost: the rows and drafts of a user, times the rows behind one; one thread, microseconds.
void draft_tree(const DraftTreeArgs& args, const DraftTreeOutputs& out);

}  // namespace genrec
