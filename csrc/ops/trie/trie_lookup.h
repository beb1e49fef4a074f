// Prefixes of semantic IDs -> nodes.
#pragma once
#include <cstdint>

#include "ops/trie/trie.h"

namespace genrec {

// out[q] = the node of level `length` that the prefix codes[q] leads to (the row when length = num_levels), or -1 where
// the trie has none; a code outside [0, codebook_size) is absent, not an error.
// codes [num_prefixes, length], contiguous, of code_size 4 (int32) or 8 (int64) bytes; length in [1, num_levels].
// Cost: one binary search among a node's edges per level.
void trie_lookup(const TrieView& trie, const void* codes, int code_size, std::int64_t num_prefixes, int length,
                 int num_threads, std::int32_t* out);

}  // namespace genrec
