// A whole constrained decode: from prompts that were read to the best semantic IDs. Level by level the head scores the
// codes, trie_step keeps the best beams, and a step of the network extends them; nothing leaves C++ in between.
#pragma once
#include <cstdint>

#include "ops/transformer/transformer.h"
#include "ops/trie/trie_step.h"

namespace genrec {

struct TransformerSearch {
  TransformerWeights weights;
  const float* hidden;  // [num_users, width]: each user's one beam so far
  const float* scores;  // [num_users] of it; -inf = no beam
  std::int64_t num_users;
  TransformerTables tables;
  TransformerCache cache, cross;
  std::int64_t num_steps;  // taken behind the prompts before this call, as in TransformerStep
  const float* const* chain;
  const std::int64_t *chain_rows, *chain_floats;
  const std::int32_t* ancestors;           // [num_steps, num_users]
  TrieView trie;                           // all levels, with their codebook sizes
  RowFilter filter;                        // of trie_step
  const std::int64_t* const* code_tokens;  // [levels][codebook size]: the token of each code
  const float* embedding;                  // [first.num_tokens, embedding_width]
  std::int64_t embedding_width;
  float embedding_scale;
  const float*
      positions;  // [num_positions, embedding_width]: added to the embedding by place in the text; null: nothing
  std::int64_t num_positions;
  TransformerFirst first;  // of the embedding's rows; its tokens are not read
  std::int64_t num_beams;
  bool valid_only;         // scores are over the codes that the trie allows, not over the vocabulary
  bool own_codes;          // scores are over the codes of the level, not over the vocabulary
  std::int64_t end_token;  // paid for behind the last code; -1: none
  int num_threads;
};

struct TransformerFound {
  std::int64_t width;          // beams behind the last level: num_beams, or fewer where the levels have too few edges
  float* scores;               // [num_users, width]
  std::int32_t *rows, *codes;  // of the trie [num_users, width], -1 = no beam; [num_users, width, levels]
  std::int64_t* tokens;        // [num_users, width, levels]
  float* bound;                // [num_users]: nothing that was pruned scores higher
};

void transformer_search(const TransformerSearch& args, const TransformerFound& out);

}  // namespace genrec
