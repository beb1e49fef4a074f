#include "ops/trie/trie_check.h"

#include <cstdint>
#include <string>
#include <vector>

#include "core/check.h"
#include "ops/trie/trie_shape.h"

namespace genrec {
namespace {

void check_offsets(const PackedOffsets& offsets, std::int64_t count, std::int64_t total, const std::string& name) {
  std::int64_t previous = offset_at(offsets, 0);
  check(previous == 0, "Trie: ", name, " must start at 0, got ", previous);
  for (std::int64_t n = 1; n <= count; ++n) {
    const std::int64_t here = offset_at(offsets, n);
    check(here > previous, "Trie: ", name, " must ascend, got ", previous, " then ", here, " at ", n);
    previous = here;
  }
  check(previous == total, "Trie: ", name, " must end at ", total, ", got ", previous);
}

void check_tokens(const TrieLevel& level, int l) {
  for (std::int64_t node = 0; node < level.num_nodes; ++node) {
    const EdgeRange range = edges_of(level, node);
    int previous = -1;
    for (std::int64_t e = range.begin; e < range.end; ++e) {
      const int token = token_at(level, e);
      check(token > previous, "Trie: tokens of level ", l, " must ascend within a node, got ", previous, " then ",
            token, " at edge ", e, " of node ", node);
      previous = token;
    }
    check(previous < level.codebook_size, "Trie: tokens of level ", l, " must be below the codebook size ",
          level.codebook_size, ", got ", previous, " in node ", node);
  }
}

void check_items(const PackedOffsets& leaf, std::int64_t num_rows, const std::int32_t* items, std::int64_t num_items) {
  std::vector<bool> seen(static_cast<std::size_t>(num_items), false);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    std::int64_t previous = -1;
    for (std::int64_t i = offset_at(leaf, row); i < offset_at(leaf, row + 1); ++i) {
      const std::int64_t item = items[i];
      check(item >= 0 && item < num_items, "Trie: leaf_items must be in [0, ", num_items, "), got ", item, " at ", i);
      check(item > previous, "Trie: leaf_items must ascend within a row, got ", previous, " then ", item, " in row ",
            row);
      check(!seen[static_cast<std::size_t>(item)], "Trie: leaf_items must hold every item once, got ", item,
            " again at ", i);
      seen[static_cast<std::size_t>(item)] = true;
      previous = item;
    }
  }
}

}  // namespace

void trie_check(const TrieView& trie, const PackedOffsets& leaf, const std::int32_t* leaf_items,
                std::int64_t num_items) {
  check_trie("Trie", trie);
  check_packed("Trie", "leaf offsets", leaf, trie.levels[trie.num_levels - 1].num_edges);
  for (int l = 0; l < trie.num_levels; ++l) {
    const TrieLevel& level = trie.levels[l];
    check_offsets(level.child, level.num_nodes, level.num_edges, message("child offsets of level ", l));
    check_tokens(level, l);
  }
  const std::int64_t num_rows = trie.levels[trie.num_levels - 1].num_edges;
  check_offsets(leaf, num_rows, num_items, "leaf offsets");
  check_items(leaf, num_rows, leaf_items, num_items);
}

}  // namespace genrec
