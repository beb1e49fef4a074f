// How far a target's own beam search goes on what was drafted: level by level, for as long as it has read all of a
// user's beams, trie_step chooses their best children, and each is looked up among the rows that were read.
#pragma once
#include <cstdint>

#include "ops/trie/trie_step.h"

namespace genrec {

// What was read: see draft_tree.h; logits [B, R, K] of each row's next level, K the largest codebook.
struct ReadRowsView {
  std::int64_t users, rows, codes;  // B, R, K
  const std::int64_t* parents;      // [B, R]
  const std::int32_t* wrote;        // [B, R]
  const void* logits;               // [B, R, K], end to end
  LogitType type;
  const float* log_sums;  // [B, R], or null: see trie_step
};

// Where the users' searches stand; read and written. A slot without a beam has node -1.
struct DraftBeams {
  std::int64_t beams;     // W
  std::int64_t* levels;   // [B]: codes that were written; num_levels: at the end
  std::int32_t* nodes;    // [B, W]
  float* scores;          // [B, W]
  std::int32_t* codes;    // [B, W, num_levels]
  std::int64_t* above;    // [B, W]: the row from which each beam was chosen
  std::int64_t* numbers;  // [B, W]: the row that wrote its last code; -1: it was not read
  float* bound;           // [B]
};

struct DraftVerifyArgs {
  TrieView trie;
  RowFilter filter;
  ReadRowsView rows;
  const std::int64_t* num_beams;  // [num_levels], each in [1, W]
  const std::int64_t* widths;     // [B]: each user's own, or null
  bool valid_only;                // as in trie_step
};

// Throws ValueError where a level, a number or a row's parent is outside, and as trie_step does.
// Cost: that of trie_step and a copy of the logits of the beams, for each level that somebody gains.
void draft_verify(const DraftVerifyArgs& args, const DraftBeams& beams, int num_threads);

}  // namespace genrec
