// A step of a walk over a graph of items: the best of the neighbours of the items where each user stands.
#pragma once
#include <cstdint>

#include "ops/codes/code_sums.h"

namespace genrec {

struct GraphStep {
  CodeSums sums;
  const std::int32_t* neighbours;  // [num_items, num_edges], -1: none
  std::int64_t num_edges;
  const std::int32_t* items;  // [num_users, num_from], where each user stands; -1: nowhere
  std::int64_t num_from;
  std::int64_t num_beams;  // at least 1
  int num_threads;
  std::int32_t* reached;   // out [num_users, num_beams], -1 behind the last
  float* scores;           // out [num_users, num_beams], -infinity behind the last
  std::int32_t* num_seen;  // out [num_users]: different neighbours, all of which were scored
};

// for each user: the num_beams best by `score` of code_sums.h among the different neighbours of items[user]; order:
// higher score, then lower id; a score of -infinity is not found.
//
// Throws ValueError where a score is NaN or infinity, or an item, a neighbour or a code of one lies outside.
// Cost: num_from * num_edges look-ups and at most num_levels additions for each different neighbour; a neighbour is
// left as soon as its other levels cannot lift it to the best so far. Memory per thread: num_items bits, and 4 bytes
// for each neighbour.
void graph_step(const GraphStep& args);

}  // namespace genrec
