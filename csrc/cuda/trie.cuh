// A trie as the kernels see it: the levels from some one on, as in csrc/ops/trie/trie.h. Its tensors were checked when
// it was made; every offset is bounded again where it is used, so nothing outside of them is read.
#pragma once
#include "device.cuh"

struct PackedOffsets {  // off(n) = bases[n / 16] + deltas[n]
  const int* bases;
  const void* deltas;
  long long count;  // of offsets
  int width;        // bytes of a delta: 1, 2 or 4
};

struct TrieLevel {
  const void* tokens;  // one per edge, ascending within a node
  long long num_edges;
  PackedOffsets child;  // edges of node n: [off(n), off(n + 1))
  int token_width;      // bytes: 1 or 2
};

struct Trie {  // python/genrec_fast/ops/_cuda_trie.py writes the same
  TrieLevel levels[8];
  int num_levels;
};

struct EdgeRange {
  long long begin, end;
};

DEVICE_INLINE long long offset_at(const PackedOffsets& offsets, long long n) {
  long long delta;
  if (offsets.width == 1)
    delta = static_cast<const unsigned char*>(offsets.deltas)[n];
  else if (offsets.width == 2)
    delta = static_cast<const unsigned short*>(offsets.deltas)[n];
  else
    delta = static_cast<const int*>(offsets.deltas)[n];
  return offsets.bases[n >> 4] + delta;
}

DEVICE_INLINE int token_at(const TrieLevel& level, long long edge) {
  if (level.token_width == 1) return static_cast<const unsigned char*>(level.tokens)[edge];
  return static_cast<const unsigned short*>(level.tokens)[edge];
}

// A node's edges; an empty range for anything but a node of the level.
DEVICE_INLINE EdgeRange edges_of(const TrieLevel& level, long long node) {
  if (node < 0 || node + 1 >= level.child.count) return {0, 0};
  const long long begin = offset_at(level.child, node), end = offset_at(level.child, node + 1);
  if (begin < 0 || begin > end || end > level.num_edges) return {0, 0};
  return {begin, end};
}

// The edge in `range` that carries `code`, or -1.
DEVICE_INLINE long long find_edge(const TrieLevel& level, EdgeRange range, long long code) {
  long long begin = range.begin, length = range.end - range.begin;
  while (length > 1) {
    const long long half = length >> 1;
    begin += token_at(level, begin + half) <= code ? half : 0;
    length -= half;
  }
  return length == 1 && token_at(level, begin) == code ? begin : -1;
}
