// The arguments of ops over items written as codes.
#pragma once
#include "bindings/arguments.h"
#include "ops/codes/code_sums.h"

namespace genrec::bindings {

// Users' scores of codes, the items' codes, and `bases`, which keeps what the result points to.
inline CodeSums code_sums(Arguments& given, std::vector<std::int64_t>& bases) {
  static constexpr Dtype kinds[] = {dtype_of<std::uint8_t>(), dtype_of<std::int32_t>()};
  CodeSums sums{};
  sums.logprobs = given.in<float>("logprobs", "B V");
  const Tensor codes = given.tensor("item_codes", {"uint8 or int32", kinds}, "N L", Layout::copied);
  sums.item_codes = codes.data;
  sums.code_bytes = static_cast<int>(codes.element_size());
  sums.num_users = given.size('B');
  sums.width = given.size('V');
  sums.num_items = given.size('N');
  sums.num_levels = given.size('L');
  bases.assign(1, 0);
  for (const std::int64_t size : given.numbers("codebook_sizes")) {
    check(size >= 1 && size <= sums.width - bases.back(), given.op(), ": codebook_sizes must add up to ", sums.width,
          " scores of a user, got ", size, " behind ", bases.back());
    bases.push_back(bases.back() + size);
  }
  check(static_cast<std::int64_t>(bases.size()) == sums.num_levels + 1 && bases.back() == sums.width, given.op(),
        ": codebook_sizes must be those of ", sums.num_levels, " levels and add up to ", sums.width, ", got ",
        bases.size() - 1, " that add up to ", bases.back());
  sums.bases = bases.data();
  return sums;
}

}  // namespace genrec::bindings
