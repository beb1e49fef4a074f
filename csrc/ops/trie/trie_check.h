// Is this trie safe to search? Asked once, when it is made or loaded.
#pragma once
#include <cstdint>

#include "ops/trie/trie.h"

namespace genrec {

// Throws ValueError naming the first rule that the trie breaks: offsets start at 0, ascend (every node has an edge,
// every row an item) and end at the next level's count; tokens ascend strictly within a node and are below the
// codebook size; leaf_items [num_items] is a permutation of 0 .. num_items - 1, ascending within a row. Array lengths
// are the caller's to check. Allocates one bit per item.
void trie_check(const TrieView& trie, const PackedOffsets& leaf, const std::int32_t* leaf_items,
                std::int64_t num_items);

}  // namespace genrec
