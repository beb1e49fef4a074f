// A trie as the ops see it: raw pointers into the tensors of genrec_fast.catalog.trie.Trie, whose contents were checked
// once, when that was made; its shape is checked by every call (trie_shape.h), and every index bounded where it is
// used. Level l has num_nodes nodes (level 0: the root) and num_edges edges, numbered in sorted order; edge e carries
// the code tokens[e] and is node e of level l + 1. The edges of the last level are the rows.
//
// Plain data and `static inline` functions only: this header is also included by per-ISA files, where a member
// function would leave a weak symbol that the linker may pick for every processor.
#pragma once
#include <cstdint>

namespace genrec {

constexpr int max_trie_levels = 8;
constexpr int max_code = 65535;
constexpr int offset_block_bits = 4;  // one base per 16 offsets: 0.25 bytes each, and a block of deltas fits a register

// off(n) = bases[n >> 4] + deltas[n], for n in [0, count].
struct PackedOffsets {
  const std::int32_t* bases;  // [(count >> 4) + 1]
  const void* deltas;         // [count + 1], unsigned
  int width;                  // bytes of a delta: 1, 2 or 4 (4: int32, never negative)
  std::int64_t num_bases;     // as many as there are in memory: check_trie compares
};

struct TrieLevel {
  const void* tokens;  // [num_edges], unsigned, ascending within a node
  int token_width;     // bytes of a token: 1 or 2
  int codebook_size;   // every token is below it
  std::int64_t num_nodes;
  std::int64_t num_edges;
  PackedOffsets child;  // edges of node n: [off(n), off(n + 1))
};

struct TrieView {
  int num_levels;
  TrieLevel levels[max_trie_levels];
};

static inline std::int64_t delta_at(const PackedOffsets& offsets, std::int64_t n) {
  if (offsets.width == 1) return static_cast<const std::uint8_t*>(offsets.deltas)[n];
  if (offsets.width == 2) return static_cast<const std::uint16_t*>(offsets.deltas)[n];
  return static_cast<const std::int32_t*>(offsets.deltas)[n];
}

static inline std::int64_t offset_at(const PackedOffsets& offsets, std::int64_t n) {
  return offsets.bases[n >> offset_block_bits] + delta_at(offsets, n);
}

static inline int token_at(const TrieLevel& level, std::int64_t edge) {
  if (level.token_width == 1) return static_cast<const std::uint8_t*>(level.tokens)[edge];
  return static_cast<const std::uint16_t*>(level.tokens)[edge];
}

// A node's edges, as a range that is safe to read even where someone wrote into the tensors after they were checked.
struct EdgeRange {
  std::int64_t begin, end;
};

static inline EdgeRange edges_of(const TrieLevel& level, std::int64_t node) {
  const std::int64_t begin = offset_at(level.child, node), end = offset_at(level.child, node + 1);
  if (begin < 0 || begin > end || end > level.num_edges) return {0, 0};
  return {begin, end};
}

// The edge in `range` that carries `code`, or -1.
static inline std::int64_t find_edge(const TrieLevel& level, EdgeRange range, std::int64_t code) {
  std::int64_t begin = range.begin, length = range.end - range.begin;
  while (length > 1) {
    const std::int64_t half = length >> 1;
    begin += token_at(level, begin + half) <= code ? half : 0;
    length -= half;
  }
  return length == 1 && token_at(level, begin) == code ? begin : -1;
}

}  // namespace genrec
