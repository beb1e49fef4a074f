// A whole best-first search: from prompts that were read to the best semantic IDs, proven. The best open prefixes are
// extended first, whatever their level, until the k-th item that was found beats every open one; the rows that all
// users need in a round go through the network together, each user with as many as he needs. The arithmetic is that of
// transformer_head, trie_step and transformer_step, so scores have their bits.
#pragma once
#include <cstdint>

#include "ops/transformer/transformer_search.h"

namespace genrec {

struct TransformerBestFirst {
  TransformerSearch search;            // num_steps must be 0; end_token and num_beams are not read
  std::int64_t first_user, last_user;  // who is searched, of all users of the prompts
  std::int64_t k;
  std::int64_t budget;        // rows of the network that a user may take, not counting those of a last descent
  std::int64_t least, share;  // rows of a user in a round: the larger of `least` and those taken before / share
  PackedOffsets leaf;         // items of each row; bases is null: count one each
};

struct TransformerBestFound {
  std::int64_t width;          // M; what is found beyond it is cut off
  float* scores;               // [users, M], best first
  std::int32_t *rows, *codes;  // of the trie [users, M], -1 = none; [users, M, levels]
  float* bound;                // [users]: no item that was not found scores higher
  std::int64_t* expanded;      // [users]: rows of the network that each took
  bool* cut;                   // [users]: whether more than M rows score as high as the k-th item
};

void transformer_best_first(const TransformerBestFirst& args, const TransformerBestFound& out);

}  // namespace genrec
