// A trie and a filter of its rows as Python hands them over: numbers, addresses among them.
#pragma once
#include <array>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "ops/trie_filter.h"

namespace genrec::bindings {

// Per level from the one in question on: tokens, bytes of a token, edges, bases, their number, deltas, bytes of a
// delta, nodes.
using LevelArgument = std::array<std::int64_t, 8>;
// Bits, ranks, users, words, excluded rows, their number, their offsets, their users; addresses are 0 where there is
// none.
using FilterArgument = std::array<std::int64_t, 8>;

template <typename T>
T* pointer(std::int64_t address) {
  return as_pointer<T>(static_cast<std::uintptr_t>(address));
}

// `sizes`: codebook sizes of the first levels; the last of them stands for those behind it.
inline TrieView view_of(const char* op, const std::vector<LevelArgument>& levels,
                        const std::vector<std::int64_t>& sizes) {
  check(!levels.empty() && levels.size() <= max_trie_levels, op, ": levels must be in [1, 8], got ", levels.size());
  check(!sizes.empty(), op, ": codebook_sizes must be given, got none");
  for (const std::int64_t size : sizes)
    check(size >= 1 && size <= max_code + 1, op, ": codebook_sizes must be in [1, 65536], got ", size);
  TrieView view{};
  view.num_levels = static_cast<int>(levels.size());
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const auto [tokens, token_width, edges, bases, num_bases, deltas, delta_width, nodes] = levels[l];
    view.levels[l] = {
        pointer<const void>(tokens),
        static_cast<int>(token_width),
        static_cast<int>(l < sizes.size() ? sizes[l] : sizes.back()),
        nodes,
        edges,
        {pointer<const std::int32_t>(bases), pointer<const void>(deltas), static_cast<int>(delta_width), num_bases}};
  }
  return view;
}

inline RowFilter filter_of(const FilterArgument& filter) {
  const auto [bits, ranks, users, words, excluded, num_excluded, excluded_offsets, excluded_users] = filter;
  return {pointer<const std::uint64_t>(bits),
          pointer<const std::int32_t>(ranks),
          words,
          users,
          pointer<const std::int32_t>(excluded),
          pointer<const std::int64_t>(excluded_offsets),
          num_excluded,
          excluded_users};
}

}  // namespace genrec::bindings
