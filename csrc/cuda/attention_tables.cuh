// Gradients of the bias' tables without atomics: each warp adds the slopes that it makes to a copy of its own, and the
// copies are added in their order.
#pragma once
#include "attention_plan.cuh"

namespace attention {

// A warp's slopes of 16 queries by some keys, and its own sums of the bias' tables in memory.
template <int Keys>
struct TableSums {
  float* slopes;            // [16][Keys + 1]
  unsigned short* buckets;  // [16][Keys + 2]
  float *distance, *time;   // of this warp, or null
  static constexpr unsigned short none = 0xffff;

  DEVICE_INLINE void put(int row, int key, float slope, int bucket) const {
    slopes[row * (Keys + 1) + key] = slope;
    buckets[row * (Keys + 2) + key] = static_cast<unsigned short>(bucket);
  }

  // distance[middle + key - query] += slopes, for keys [0, Keys) and queries [0, 16): each lane has its diagonals.
  DEVICE_INLINE void add_distances(Offset middle, int size, int lane) const {
    for (int d = lane; d < Keys + 15; d += 32) {
      float sum = 0;
      for (int row = 0; row < 16; ++row) {
        const int key = d - 15 + row;
        if (key >= 0 && key < Keys) sum += slopes[row * (Keys + 1) + key];
      }
      const Offset at = middle + d - 15;
      if (at >= 0 && at < size) distance[at] += sum;
    }
  }

  // A lane goes down the queries of a key, where buckets seldom change, and adds to the table where they do.
  DEVICE_INLINE void add_times(int lane) const {
    int bucket = 0;
    float sum = 0;
    bool any = false;
    for (int row = 0; row <= 16; ++row) {
      const int next = row < 16 && lane < Keys ? buckets[row * (Keys + 2) + lane] : none;
      const bool there = next != none, flush = any && (row == 16 || (there && next != bucket));
      for (unsigned left = __ballot_sync(all_lanes, flush); left;) {
        const int wanted = __shfl_sync(all_lanes, bucket, __ffs(static_cast<int>(left)) - 1);
        const unsigned same = __ballot_sync(all_lanes, flush && bucket == wanted);
        float all = same >> lane & 1 ? sum : 0.0f;
        for (int step = 16; step; step /= 2) all += __shfl_xor_sync(all_lanes, all, step);
        if (lane == 0) time[wanted] += all;
        left &= ~same;
      }
      if (flush) any = false, sum = 0.0f;
      if (there) {
        bucket = next;
        any = true;
        sum += slopes[row * (Keys + 1) + lane];
      }
    }
  }
};

// Entry `blockIdx.x * 32 + lane` of table `blockIdx.y`: the sums of all warps in order, in float64. `begin`: of the
// table in a warp's sums; `step`: from warp to warp. 256 threads.
DEVICE_INLINE void add_tables(const float* tables, Offset workers, int num_heads, int warps, int begin, int step,
                              int size, bool shared, const Offset* status, float* out) {
  __shared__ double parts[8][32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int entry = static_cast<int>(blockIdx.x) * 32 + lane, head = static_cast<int>(blockIdx.y);
  const Offset count = workers * warps * (shared ? num_heads : 1);
  double sum = 0;
  for (Offset n = warp; entry < size && n < count; n += 8) {
    const Offset at = shared ? n : n / warps * num_heads * warps + head * warps + n % warps;
    sum += static_cast<double>(tables[at * step + begin + entry]);
  }
  parts[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || entry >= size) return;
  for (int w = 1; w < 8; ++w) sum += parts[w][lane];
  const bool good = status[status_valid] && !status[status_poisoned];
  out[static_cast<Offset>(head) * size + entry] = good ? static_cast<float>(sum) : not_a_number();
}

}  // namespace attention
