// The arguments of ops over items written as codes.
#pragma once
#include "bindings/arguments.h"
#include "ops/codes/code_sums.h"

namespace genrec::bindings {

// The items' codes, into `item_codes`, `code_bytes`, `num_items` and `num_levels`.
template <class Args>
void take_item_codes(Arguments& given, Args& args) {
  static constexpr Dtype kinds[] = {dtype_of<std::uint8_t>(), dtype_of<std::int32_t>()};
  const Tensor codes = given.tensor("item_codes", {"uint8 or int32", kinds}, "N L", Layout::copied);
  args.item_codes = codes.data;
  args.code_bytes = static_cast<int>(codes.element_size());
  args.num_items = given.size('N');
  args.num_levels = given.size('L');
}

// Where the codes of each level begin among `width`, and their end; `bases` keeps what the result points to.
inline const std::int64_t* level_bases(Arguments& given, std::int64_t num_levels, std::int64_t width,
                                       std::vector<std::int64_t>& bases) {
  bases.assign(1, 0);
  for (const std::int64_t size : given.numbers("codebook_sizes")) {
    check(size >= 1 && size <= width - bases.back(), given.op(), ": codebook_sizes must add up to ", width,
          " codes, got ", size, " behind ", bases.back());
    bases.push_back(bases.back() + size);
  }
  check(static_cast<std::int64_t>(bases.size()) == num_levels + 1 && bases.back() == width, given.op(),
        ": codebook_sizes must be those of ", num_levels, " levels and add up to ", width, ", got ", bases.size() - 1,
        " that add up to ", bases.back());
  return bases.data();
}

// Users' scores of codes, the items' codes, and `bases`, which keeps what the result points to.
inline CodeSums code_sums(Arguments& given, std::vector<std::int64_t>& bases) {
  CodeSums sums{};
  sums.logprobs = given.in<float>("logprobs", "B V");
  take_item_codes(given, sums);
  sums.num_users = given.size('B');
  sums.width = given.size('V');
  sums.bases = level_bases(given, sums.num_levels, sums.width, bases);
  return sums;
}

}  // namespace genrec::bindings
