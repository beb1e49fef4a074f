// Offsets of jagged rows: row r of B holds elements [offsets[r], offsets[r + 1]).
#pragma once
#include <cstdint>
#include <string>

namespace genrec {

// Throws ValueError unless offsets, [num_rows + 1], run from 0 to total without decreasing. One pass.
void check_offsets(const std::string& op, const std::string& name, const std::int64_t* offsets, std::int64_t num_rows,
                   std::int64_t total);

}  // namespace genrec
