#include <cstdint>

#include "core/vec.h"
#include "ops/codes/code_sums.h"

namespace genrec::GENREC_ISA {

// Whether no element is NaN or infinity; -infinity may be.
bool codes_are_scores(const float* x, std::int64_t count) {
  const float most = float_of(0x7f7fffffu);
  bool regular = true;
  for (std::int64_t i = 0; i < count; ++i) regular &= x[i] <= most;
  return regular;
}

}  // namespace genrec::GENREC_ISA
