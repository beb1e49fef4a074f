// Lists of addresses from Python -> the structs of ops/trie.h. Every list has one entry per level.
#pragma once
#include <cstdint>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "ops/trie.h"

namespace genrec::bindings {

using Addresses = std::vector<std::uintptr_t>;
using Numbers = std::vector<std::int64_t>;

inline TrieView trie_view(const Numbers& codebook_sizes, const Numbers& num_edges, const Addresses& tokens,
                          const Numbers& token_widths, const Addresses& bases, const Addresses& deltas,
                          const Numbers& delta_widths) {
  const std::size_t levels = codebook_sizes.size();
  check(levels >= 1 && levels <= max_trie_levels, "trie: levels must be in [1, 8], got ", levels);
  for (std::size_t size :
       {num_edges.size(), tokens.size(), token_widths.size(), bases.size(), deltas.size(), delta_widths.size()})
    check(size == levels, "trie: every list must have one entry per level, got ", size, " for ", levels, " levels");
  TrieView view{};
  view.num_levels = static_cast<int>(levels);
  for (std::size_t l = 0; l < levels; ++l) {
    view.levels[l] = {as_pointer<const void>(tokens[l]),
                      static_cast<int>(token_widths[l]),
                      static_cast<int>(codebook_sizes[l]),
                      l == 0 ? 1 : num_edges[l - 1],
                      num_edges[l],
                      {as_pointer<const std::int32_t>(bases[l]), as_pointer<const void>(deltas[l]),
                       static_cast<int>(delta_widths[l])}};
  }
  return view;
}

}  // namespace genrec::bindings
