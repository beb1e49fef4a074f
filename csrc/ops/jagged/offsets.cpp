#include "ops/jagged/offsets.h"

#include "core/check.h"

namespace genrec {

void check_offsets(const std::string& op, const std::string& name, const std::int64_t* offsets, std::int64_t num_rows,
                   std::int64_t total) {
  check(offsets[0] == 0 && offsets[num_rows] == total, op, ": ", name, " must run from 0 to ", total, ", got ",
        offsets[0], " to ", offsets[num_rows]);
  bool falls = false;
  for (std::int64_t row = 0; row < num_rows; ++row) falls |= offsets[row + 1] < offsets[row];
  for (std::int64_t row = 0; falls && row < num_rows; ++row)
    check(offsets[row + 1] >= offsets[row], op, ": ", name, " must not decrease, got ", offsets[row + 1], " after ",
          offsets[row], " at the end of row ", row);
}

}  // namespace genrec
