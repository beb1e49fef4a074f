// Semantic IDs -> trie, in four steps, so that the caller can allocate what each one fills:
//   trie_build_range  checks every code and finds the largest of each level
//   trie_build_sort   packs each semantic ID into a key of one or two words and sorts (key, item)
//   trie_build_size   counts edges and finds how wide the packed offsets must be
//   trie_build        writes tokens and offsets
// One thread; about 20 bytes per item of workspace (28 where a semantic ID has more than 64 bits).
#pragma once
#include <cstdint>

#include "ops/trie/trie.h"

namespace genrec {

// item_codes [num_items, num_levels], any integer type and any strides (in bytes, alignment not required).
struct CodeArray {
  const void* data;
  int item_size;  // bytes: 1, 2, 4 or 8
  bool is_signed;
  std::int64_t num_items;  // [1, 2^31 - 1]
  int num_levels;          // [1, 8]
  std::int64_t item_stride, level_stride;
};

// Where each level's code stands in a key. Level 0 is the most significant; no code crosses a word.
struct KeyLayout {
  int num_levels;
  int num_words;  // 1 or 2; word 0 is the less significant one
  int word[max_trie_levels], shift[max_trie_levels], bits[max_trie_levels];
};

// Each level gets as many bits as codebook_sizes[l] - 1 needs, at least one.
KeyLayout key_layout(int num_levels, const std::int64_t* codebook_sizes);

// Throws ValueError, naming item and level, where a code is negative or not below limits[level] ([num_levels], each
// in [1, 65536]). maxima [num_levels] receives the largest code of each level. Reads the codes once.
void trie_build_range(const CodeArray& codes, const std::int64_t* limits, std::int64_t* maxima);

// Fills keys [2][num_items * num_words] and items [2][num_items], two buffers each; returns which of the two (0 or 1)
// holds the keys in ascending order with their items; equal keys keep the order of their items. The codes must have
// passed trie_build_range. Least significant digit first, about 11 bits per pass; constant digits are skipped.
int trie_build_sort(const CodeArray& codes, const KeyLayout& layout, std::uint64_t* const keys[2],
                    std::int32_t* const items[2]);

struct TrieSizes {
  std::int64_t num_edges[max_trie_levels];
  std::int64_t max_child_delta[max_trie_levels];
  std::int64_t max_leaf_delta;
};

TrieSizes trie_build_size(const std::uint64_t* keys, std::int64_t num_items, const KeyLayout& layout);

// What trie_build fills; sizes as in PackedOffsets and TrieLevel, from trie_build_size.
struct OffsetsOut {
  std::int32_t* bases;
  void* deltas;
  int width;
};
struct TrieOut {
  void* tokens[max_trie_levels];
  int token_widths[max_trie_levels];
  OffsetsOut child[max_trie_levels];
  OffsetsOut leaf;
};

void trie_build(const std::uint64_t* keys, std::int64_t num_items, const KeyLayout& layout, const TrieOut& out);

}  // namespace genrec
