// Where the nodes of a small trie stand among those of a large one, as if both had been built together.
#pragma once
#include <cstdint>

#include "ops/trie/trie.h"

namespace genrec {

// For each edge of `added` at level l, which is a node of level l + 1: before[l] the nodes of `base` at that level that
// stand before its prefix, shared[l] whether the next one is that prefix. Both [num_edges of added at l], for as many
// levels as both tries have. Throws ValueError where the levels differ, or a trie has not the shape of one. Cost: a
// search among the children of base at the same prefix, per node; one thread.
void trie_places(const TrieView& base, const TrieView& added, std::int32_t* const* before, bool* const* shared);

}  // namespace genrec
