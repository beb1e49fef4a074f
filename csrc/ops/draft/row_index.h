// The rows that a network has read of one user, by what they wrote and behind which row.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/check.h"

namespace genrec {

// Throws ValueError where a user's row that can be looked up stands behind none: parents and codes [R].
inline void check_rows(const char* op, const std::int64_t* parents, const std::int32_t* codes, std::int64_t rows,
                       std::int64_t user) {
  for (std::int64_t row = 0; row < rows; ++row)
    check(codes[row] < 0 || (parents[row] >= 0 && parents[row] < rows), op, ": row_parents must be in [0, ", rows,
          "), got ", parents[row], " for user ", user, ", row ", row);
}

class RowIndex {
 public:
  explicit RowIndex(std::int64_t rows) : first_(static_cast<std::size_t>(rows)), next_(first_) {}

  std::int64_t rows() const { return static_cast<std::int64_t>(first_.size()); }

  // A user's rows, which check_rows took: parents and codes [R]. A row with a code below 0 is not found.
  void read(const std::int64_t* parents, const std::int32_t* codes) {
    codes_ = codes;
    first_.assign(first_.size(), -1);
    for (std::int64_t row = rows() - 1; row >= 0; --row) {  // from behind: the first of equal rows is found
      if (codes[row] < 0) continue;
      const auto above = static_cast<std::size_t>(parents[row]);
      next_[static_cast<std::size_t>(row)] = first_[above];
      first_[above] = row;
    }
  }

  // The number of the row that wrote `code` behind row `above`; -1: none. Cost: the rows behind it.
  std::int64_t find(std::int64_t above, std::int64_t code) const {
    if (above < 0 || above >= rows() || code < 0) return -1;
    std::int64_t row = first_[static_cast<std::size_t>(above)];
    while (row >= 0 && codes_[row] != code) row = next_[static_cast<std::size_t>(row)];
    return row;
  }

 private:
  std::vector<std::int64_t> first_, next_;  // of each row: the first behind it, and the next behind the same one
  const std::int32_t* codes_ = nullptr;
};

}  // namespace genrec
