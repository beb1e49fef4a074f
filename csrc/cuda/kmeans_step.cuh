// What a Lloyd step adds up once the nearest centroids are known (rq_encode.cuh): distances, in 16 lanes per row, then
// per 1024 rows, then one after the other; rows per centroid in their order, float64. So the bits are the CPU's.
#include "rq_product.cuh"

namespace kmeans {

using rq::Offset;
constexpr int summed_rows = 1024, block_threads = 256;
constexpr int ahead = 8;  // rows asked for before they are added

// totals[b]: the squared distances of rows [1024 b, 1024 b + 1024) from their centroids; NaN if one has none. Half a
// warp takes a row.
template <class Element>
DEVICE_INLINE void distances(const typename Element::Type* x, const float* centroids, const int* labels,
                             Offset num_rows, int depth, double* totals) {
  __shared__ double found[summed_rows];
  const int part = static_cast<int>(threadIdx.x) % 16;
  const Offset first = static_cast<Offset>(blockIdx.x) * summed_rows;
  const int here = static_cast<int>(rq::smaller(num_rows - first, summed_rows));
  for (int begin = 0; begin < here; begin += block_threads / 16) {
    const int row = begin + static_cast<int>(threadIdx.x) / 16;
    const int label = row < here ? labels[first + row] : -1;
    double sum = 0.0;
    if (label >= 0)
      for (int d = part; d < depth; d += 16) {
        const double rest = static_cast<double>(Element::load(x[(first + row) * depth + d])) -
                            static_cast<double>(__ldg(centroids + static_cast<Offset>(label) * depth + d));
        sum += rest * rest;
      }
    sum = rq::sum_of_lanes(sum);
    if (row < here && part == 0) found[row] = label < 0 ? static_cast<double>(__uint_as_float(0x7fc00000u)) : sum;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return;
  double sum = 0.0;
  for (int row = part; row < here; row += 16) sum += found[row];
  sum = rq::sum_of_lanes(sum);
  if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}

// out = before (null: 0) + totals[0] + totals[1] + ...; by one warp.
DEVICE_INLINE void add_totals(const double* totals, Offset count, const double* before, double* out) {
  const int lane = static_cast<int>(threadIdx.x);
  double sum = before ? *before : 0.0;
  for (Offset from = 0; from < count; from += 32) {
    const int here = static_cast<int>(rq::smaller(count - from, 32));
    const double own = lane < here ? totals[from + lane] : 0.0;
    for (int i = 0; i < here; ++i) sum += __shfl_sync(all_lanes, own, i);
  }
  if (lane == 0) *out = sum;
}

// sums[k, d] = before[k, d] (null: 0) + column d of rows order[starts[k]], order[starts[k] + 1], ..; a thread per sum.
template <class Element>
DEVICE_INLINE void add_rows(const typename Element::Type* x, const Offset* order, const Offset* starts, Offset count,
                            int depth, const double* before, double* sums) {
  const Offset own = static_cast<Offset>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (own >= count * depth) return;
  const typename Element::Type* from = x + own % depth;
  Offset row = starts[own / depth];
  const Offset end = starts[own / depth + 1];
  double sum = before ? before[own] : 0.0;
  for (; row + ahead <= end; row += ahead) {
    float next[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) next[i] = Element::load(from[order[row + i] * depth]);
#pragma unroll
    for (int i = 0; i < ahead; ++i) sum += static_cast<double>(next[i]);
  }
  for (; row < end; ++row) sum += static_cast<double>(Element::load(from[order[row] * depth]));
  sums[own] = sum;
}

}  // namespace kmeans

// Blocks of 256 threads, one per 1024 rows.
extern "C" __global__ void kmeans_step_distances_float32(const float* x, const float* centroids, const int* labels,
                                                         long long num_rows, int depth, double* totals) {
  kmeans::distances<Float32>(x, centroids, labels, num_rows, depth, totals);
}
extern "C" __global__ void kmeans_step_distances_bfloat16(const unsigned short* x, const float* centroids,
                                                          const int* labels, long long num_rows, int depth,
                                                          double* totals) {
  kmeans::distances<Bfloat16>(x, centroids, labels, num_rows, depth, totals);
}
extern "C" __global__ void kmeans_step_distances_float16(const unsigned short* x, const float* centroids,
                                                         const int* labels, long long num_rows, int depth,
                                                         double* totals) {
  kmeans::distances<Half>(x, centroids, labels, num_rows, depth, totals);
}

// One warp.
extern "C" __global__ void kmeans_step_inertia(const double* totals, long long count, const double* before,
                                               double* out) {
  kmeans::add_totals(totals, count, before, out);
}

extern "C" __global__ void kmeans_step_sums_float32(const float* x, const long long* order, const long long* starts,
                                                    long long count, int depth, const double* before, double* sums) {
  kmeans::add_rows<Float32>(x, order, starts, count, depth, before, sums);
}
extern "C" __global__ void kmeans_step_sums_bfloat16(const unsigned short* x, const long long* order,
                                                     const long long* starts, long long count, int depth,
                                                     const double* before, double* sums) {
  kmeans::add_rows<Bfloat16>(x, order, starts, count, depth, before, sums);
}
extern "C" __global__ void kmeans_step_sums_float16(const unsigned short* x, const long long* order,
                                                    const long long* starts, long long count, int depth,
                                                    const double* before, double* sums) {
  kmeans::add_rows<Half>(x, order, starts, count, depth, before, sums);
}
