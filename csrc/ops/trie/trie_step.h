// One level of a trie-constrained beam search: log-softmax, mask, top-k and advance in one call.
//
// For each user, over the beams with node >= 0 and score > -inf and over the children of their nodes that pass the
// filter: score = scores[beam] + (logits[beam, code] - logsumexp(logits[beam])). The num_beams best are kept, ties go
// to the lower beam * K + code; `bound` is the best that was not kept. The arithmetic is that of
// ops/reference/trie_step.py, bit by bit. Cost: every live row of logits is read once from memory.
#pragma once
#include <cstdint>

#include "ops/trie/trie_filter.h"

namespace genrec {

enum class LogitType : int { float32 = 0, bfloat16 = 1, float16 = 2 };

struct TrieStepArgs {
  TrieView trie;  // its first level is the one whose codes are chosen; without a filter the others are not read
  RowFilter filter;
  const void* logits;  // [B, W, K], last stride 1
  LogitType type;
  std::int64_t user_stride, beam_stride;  // of logits, in elements
  std::int64_t users, beams, codes;       // B, W, K; W * K < 2^32
  const std::int32_t* nodes;              // [B, W], -1 = no beam
  const float* scores;                    // [B, W]
  std::int64_t num_beams;                 // >= 1
  bool valid_only;                        // normalise over the valid children instead of all K codes
  const float* log_sums;                  // [B, W], in the place of logsumexp(logits[beam]); null: taken here
};

struct TrieStepOutputs {  // all overwritten; none aliases an input
  float* scores;          // [B, num_beams]
  std::int32_t* codes;    // [B, num_beams]
  std::int32_t* parents;  // [B, num_beams]
  std::int32_t* nodes;    // [B, num_beams]
  float* bound;           // [B]
};

// Throws ValueError where a node is outside its level or a live beam has a NaN or +inf logit or score.
void trie_step(const TrieStepArgs& args, const TrieStepOutputs& out, int num_threads);

// Between trie_step.cpp and the kernels -----------------------------------------------------------------------------

// A child that may be kept. Keys order by score, then by lower beam * K + code, and are unique.
struct Candidate {
  std::uint64_t key;
  std::int64_t edge;
};

// The running best `keep` candidates: entries are added at `count`; a full list is cut back to the best `keep`.
struct CandidateList {
  Candidate* entries;  // [capacity]
  std::int64_t count, capacity, keep;
  std::uint64_t floor;  // candidates with a key up to this one are not among the best
  float floor_score;    // the score in `floor`; lowest finite number before the first cut
};

struct TrieStepScratch {
  float* row;                // [K + 32]: a row converted to float32, or its last, partly filled 16 lanes
  float* values;             // [K + 32], valid_only: logits of the valid children
  std::int64_t* edges;       // [K], valid_only: the valid children
  std::uint32_t* survivors;  // [K]: codes above the floor
};

enum class TrieStepFault : int { none = 0, node, score, logit, log_sum };

// Cuts the list back to its best `keep` and raises the floor.
void cut(CandidateList& list);

}  // namespace genrec
