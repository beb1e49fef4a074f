// One Lloyd step: nearest centroids, and what the next centroids are made of.
#pragma once
#include <cstdint>

#include "ops/rq/rq_encode.h"

namespace genrec {

struct KMeansStepArgs {
  const void* x;  // [num_rows, depth] of `element`, rows end to end
  RqElement element;
  std::int64_t num_rows, depth;
  const float* centroids;      // [num_centroids, depth]
  std::int64_t num_centroids;  // 1 to 65536
  bool bfloat16;               // shortlist in bfloat16 where the instruction set has it
  int num_threads;
  std::int32_t* labels;  // out [num_rows]
  // Of the rows before, and added to: zeros at first.
  double* sums;          // [num_centroids, depth]
  std::int64_t* counts;  // [num_centroids]
  double* inertia;       // [1]
};

// for n: k = nearest(x[n]); labels[n] = k; sums[k] += x[n]; counts[k] += 1; inertia += |x[n] - c[k]|^2
//
// Nearest as rq_encode defines it. sums: float64, row after row, whatever the number of threads. A distance: float64,
// sums in 16 lanes; inertia: distances of 1024 rows in 16 lanes, then block after block.
// Throws ValueError where a row is not finite; the outputs are then undefined.
// Cost: num_rows * depth * num_centroids multiply-adds; on one thread x is read once from memory, else twice.
void kmeans_step(const KMeansStepArgs& args);

}  // namespace genrec
