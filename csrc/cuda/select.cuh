// The largest of many 64-bit keys, by one block: a radix descent of 11 bits a pass. 0 is no key.
#pragma once
#include "device.cuh"

using Key = unsigned long long;

// The score of a key that orders by a float first: its high word, turned so that larger is larger.
DEVICE_INLINE float score_in(Key key) {
  const unsigned high = static_cast<unsigned>(key >> 32);
  return __uint_as_float(high >> 31 ? high & 0x7fffffffu : ~high);
}

constexpr int select_bits = 11, select_bins = 1 << select_bits;

struct SelectScratch {  // shared by a block of a power of two of threads, at most 1024
  unsigned bins[select_bins];
  unsigned warps[32];
  unsigned bin, above, inside;
};

// Sums of what the threads before this one have, and of what all have.
struct Before {
  unsigned mine, all;
};

// `warps`: 32 shared numbers. Every thread calls it; the caller puts a barrier between two calls.
DEVICE_INLINE Before sum_before(unsigned own, unsigned* warps) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  unsigned sum = own;
  for (unsigned d = 1; d < 32; d <<= 1) {
    const unsigned other = __shfl_up_sync(all_lanes, sum, d);
    sum += lane >= static_cast<int>(d) ? other : 0u;
  }
  if (lane == 31) warps[warp] = sum;
  __syncthreads();
  Before before{sum - own, 0};
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) {
    before.mine += w < warp ? warps[w] : 0u;
    before.all += warps[w];
  }
  return before;
}

// A bound which at least `wanted` keys reach, and at most `wanted + more` (fewer passes where there is some room); 1
// where there are fewer keys than wanted. The same in all threads, each of which calls it; keys are unique.
DEVICE_INLINE Key floor_of(const Key* keys, long long count, unsigned wanted, unsigned more, SelectScratch& scratch) {
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x), own = select_bins / threads;
  Key prefix = 0;
  unsigned above = 0;  // keys above those with the prefix
  for (int shift = 64; shift > 0;) {
    const int next = shift > select_bits ? shift - select_bits : 0;
    const unsigned mask = (1u << (shift - next)) - 1u;
    __syncthreads();
    for (int b = t; b < select_bins; b += threads) scratch.bins[b] = 0;
    __syncthreads();
    for (long long i = t; i < count; i += threads) {
      const Key key = keys[i];
      if (key != 0 && (shift == 64 || key >> shift == prefix))
        atomicAdd(&scratch.bins[static_cast<unsigned>(key >> next) & mask], 1u);
    }
    __syncthreads();
    const int last = select_bins - 1 - t * own;  // thread 0 has the highest bins
    unsigned sum = 0;
    for (int b = 0; b < own; ++b) sum += scratch.bins[last - b];
    const Before before = sum_before(sum, scratch.warps);
    if (above + before.all < wanted) return 1;  // in the first pass
    unsigned over = above + before.mine;
    if (over < wanted && over + sum >= wanted) {  // one thread
      int b = last;
      for (; over + scratch.bins[b] < wanted; --b) over += scratch.bins[b];
      scratch.bin = static_cast<unsigned>(b), scratch.above = over, scratch.inside = scratch.bins[b];
    }
    __syncthreads();
    prefix = prefix << (shift - next) | scratch.bin;
    above = scratch.above;
    shift = next;
    if (above + scratch.inside <= wanted + more) return prefix << shift;
  }
  return prefix;
}

// Moves the entries whose keys reach `floor` to the front; returns how many. Every thread of the block calls it.
DEVICE_INLINE long long keep_from(Key floor, Key* keys, int* edges, long long count, SelectScratch& scratch) {
  long long kept = 0;
  for (long long first = 0; first < count; first += blockDim.x) {
    const long long i = first + threadIdx.x;
    const Key key = i < count ? keys[i] : 0;
    const int edge = i < count ? edges[i] : 0;
    const bool stays = key >= floor && i < count;
    const Before before = sum_before(stays, scratch.warps);  // behind its barrier all have read theirs
    if (stays) keys[kept + before.mine] = key, edges[kept + before.mine] = edge;
    kept += before.all;
    __syncthreads();
  }
  return kept;
}

// The same for keys alone.
DEVICE_INLINE long long keep_from(Key floor, Key* keys, long long count, SelectScratch& scratch) {
  long long kept = 0;
  for (long long first = 0; first < count; first += blockDim.x) {
    const long long i = first + threadIdx.x;
    const Key key = i < count ? keys[i] : 0;
    const bool stays = key >= floor && i < count;
    const Before before = sum_before(stays, scratch.warps);
    if (stays) keys[kept + before.mine] = key;
    kept += before.all;
    __syncthreads();
  }
  return kept;
}

// Sorts by one block, ascending. Any count: what lies behind the end of a power of two counts as the largest key.
DEVICE_INLINE void sort_keys(Key* keys, long long count) {
  for (int size = 1; 1ll << (size - 1) < count; ++size)  // of sorted runs, as a power of two; so is the step
    for (int step = size - 1; step >= 0; --step) {
      __syncthreads();
      for (long long pair = threadIdx.x; 2 * pair < count + (2ll << step); pair += blockDim.x) {
        const long long low = (pair >> step << (step + 1)) | (pair & ((1ll << step) - 1));
        // Mirrored first, then side by side.
        const long long high = step == size - 1 ? low ^ ((1ll << size) - 1) : low + (1ll << step);
        if (high >= count || keys[low] <= keys[high]) continue;
        const Key key = keys[low];
        keys[low] = keys[high], keys[high] = key;
      }
    }
  __syncthreads();
}
