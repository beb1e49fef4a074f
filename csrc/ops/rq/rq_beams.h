// rq_encode with several partial codes kept from level to level.
//
//   beams = {x};  for each level l:  of all (beam, code), the W lowest |r|^2 / 2 + (|c|^2 / 2 - r c), lowest first,
//   ties to the lower beam * K + code;  the new residuals are r - c.  The best beam of the last level is given.
//
// The scores need no product per beam: r = x - (codes so far), so r c = x c - sum of (code so far) c, and the products
// of codes with codes are tabled once per call. Nor is |r|^2 / 2 computed: it is the score that the beam came with. As
// in rq_encode, fast scores decide only what they prove: beams whose scores are apart by twice the error are in order;
// the others are scored again as defined, in float64, from residuals that are made then and there.
#pragma once
#include "ops/rq/rq_encode.h"

namespace genrec {

// Cost: num_rows * depth * sum(num_codes) multiply-adds, plus W * sum(l * num_codes[l]) additions per row. The tables
// take 4 * num_codes[j] * num_codes[l] bytes for each j < l; where all of them would take more than 64 MiB there are
// none, and every beam's residual is multiplied.
void rq_beams(const RqEncodeArgs& args);

// ---- between rq_beams.cpp and rq_beams_cpu.cpp

constexpr int rq_most_tabled = 64;  // levels; with more there are no tables

struct RqTables {
  const float* const* products;  // [j * num_levels + l], j < l: float32 [num_codes[j], columns[l]]; null: no tables
  const std::int64_t* columns;   // per level: of all its panels
};

struct RqCandidate {
  double exact;
  float score;
  std::int32_t beam, code;
};

struct RqBeamScratch {
  std::int64_t block_rows, chunk, capacity;
  float* x;                 // [block_rows, depth]
  float* scores;            // [block_rows or, without tables, block_rows * W; chunk]
  float* residual;          // with tables [W, depth], without [block_rows * W, depth]
  double* own;              // [W]
  std::uint8_t* made;       // [W]
  std::int32_t* codes[2];   // [block_rows, W, num_levels], read and written in turn
  float* beam_scores[2];    // [block_rows, W]: less |r|^2 / 2
  float* top;               // [block_rows, W]: the best scores so far
  RqCandidate* candidates;  // [block_rows, capacity]
};

}  // namespace genrec
