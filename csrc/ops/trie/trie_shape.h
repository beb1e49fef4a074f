// The shape of a trie and of a filter of its rows, which every call checks: a tuple of tensors is easily altered, and
// the kernels read as many entries as it says. Its contents are bounded where they are used (trie.h: edges_of).
#pragma once
#include <cstdint>

#include "ops/trie/trie_filter.h"

namespace genrec {

// Throws ValueError where packed offsets of `count` nodes are not all there.
void check_packed(const char* op, const char* name, const PackedOffsets& offsets, std::int64_t count);

// Throws ValueError where a level lacks tensors, has widths that no kernel reads, does not join the level above, or has
// another number of edges than its offsets say.
void check_trie(const char* op, const TrieView& trie);

// Throws ValueError where the filter is not one of the rows of `trie` (all levels down to the last) for `users`, or its
// lists run out of their tensor. Cost: users.
void check_filter(const char* op, const RowFilter& filter, const TrieView& trie, std::int64_t users);

}  // namespace genrec
