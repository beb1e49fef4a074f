#include "ops/trie/trie_shape.h"

#include <string>

#include "core/check.h"

namespace genrec {
namespace {

constexpr std::int64_t most = std::int64_t{1} << 31;  // nodes, rows and items are int32

bool aligned(const void* address, std::int64_t size) {
  return address != nullptr && reinterpret_cast<std::uintptr_t>(address) % static_cast<std::uintptr_t>(size) == 0;
}

}  // namespace

void check_packed(const char* op, const char* name, const PackedOffsets& offsets, std::int64_t count) {
  check(offsets.width == 1 || offsets.width == 2 || offsets.width == 4, op, ": ", name,
        " must have deltas of 1, 2 or 4 bytes, got ", offsets.width);
  check(count >= 1 && count < most, op, ": ", name, " must be of 1 to 2^31 - 1 nodes, got ", count);
  check(offsets.num_bases == (count >> offset_block_bits) + 1, op, ": ", name, " must have a base for every ",
        1 << offset_block_bits, " of its ", count, " nodes, got ", offsets.num_bases);
  check(aligned(offsets.bases, 4) && aligned(offsets.deltas, offsets.width), op, ": ", name,
        " must have data at a multiple of its elements' size, got none there");
}

void check_trie(const char* op, const TrieView& trie) {
  check(trie.num_levels >= 1 && trie.num_levels <= max_trie_levels, op, ": trie must have 1 to ", max_trie_levels,
        " levels, got ", trie.num_levels);
  for (int l = 0; l < trie.num_levels; ++l) {
    const TrieLevel& level = trie.levels[l];
    check(level.token_width == 1 || level.token_width == 2, op, ": trie must have tokens of 1 or 2 bytes, got ",
          level.token_width);
    check(level.num_edges >= 1 && level.num_edges < most, op,
          ": trie must have 1 to 2^31 - 1 edges at every level, got ", level.num_edges);
    check(aligned(level.tokens, level.token_width), op,
          ": trie must have tokens at a multiple of their size, got none there");
    check_packed(op, "trie", level.child, level.num_nodes);
    // A tensor that was cut or lengthened: else its nodes would be without children, and nobody would know.
    const std::int64_t begin = offset_at(level.child, 0), end = offset_at(level.child, level.num_nodes);
    check(begin == 0, op, ": child offsets of level ", l, " must start at 0, got ", begin);
    check(end == level.num_edges, op, ": child offsets of level ", l, " must end at ", level.num_edges, ", got ", end);
    check(l == 0 || level.num_nodes == trie.levels[l - 1].num_edges, op,
          ": trie must have as many nodes at a level as edges above, got ", level.num_nodes, " and ",
          l == 0 ? 0 : trie.levels[l - 1].num_edges);
  }
}

void check_filter(const char* op, const RowFilter& filter, const TrieView& trie, std::int64_t users) {
  const std::int64_t rows = trie.levels[trie.num_levels - 1].num_edges;
  if (filter.bits) {
    check(filter.ranks && aligned(filter.bits, 8) && aligned(filter.ranks, 4), op,
          ": allowed must have bits and ranks at a multiple of their size, got none there");
    check(filter.words == rows / 64 + 1, op, ": allowed must be a filter of this trie, with ", rows,
          " rows, got one of ", filter.words, " words");
    check(filter.users == 1 || filter.users == users, op, ": allowed must be for one or ", users, " users, got ",
          filter.users);
  }
  check(!filter.excluded || filter.excluded_offsets, op, ": exclude must have offsets, got none");
  if (!filter.excluded_offsets) return;
  check(aligned(filter.excluded_offsets, 8) && (filter.num_excluded == 0 || aligned(filter.excluded, 4)), op,
        ": exclude must have rows and offsets at a multiple of their size, got none there");
  check(filter.excluded_users == users, op, ": exclude must be for ", users, " users, got ", filter.excluded_users);
  for (std::int64_t user = 0; user < users; ++user) {
    const std::int64_t begin = filter.excluded_offsets[user], end = filter.excluded_offsets[user + 1];
    check(0 <= begin && begin <= end && end <= filter.num_excluded, op,
          ": exclude must have offsets that do not decrease up to ", filter.num_excluded, ", got ", begin, " to ", end,
          " for user ", user);
  }
}

}  // namespace genrec
