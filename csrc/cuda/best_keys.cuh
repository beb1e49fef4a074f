// The best of many scored ids as 64-bit keys: higher score first, then lower id.
#pragma once
#include "select.cuh"

constexpr int short_best = 2048;  // keys that a block sorts in shared memory

struct BestScratch {  // shared by the block
  SelectScratch select;
  Key own[short_best];
};

// Never 0, for an id in [0, 2^31). A score that is NaN goes before all others, as in torch's sort; -0 is 0.
DEVICE_INLINE Key key_of(float score, long long id) {
  const unsigned bits = score == score ? __float_as_uint(score + 0.0f) : 0x7fffffffu;
  return static_cast<Key>(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | ~static_cast<unsigned>(id);
}
DEVICE_INLINE int id_in(Key key) { return static_cast<int>(~static_cast<unsigned>(key)); }

struct Best {
  const Key* keys;  // as ~key, so ascending: the best first
  long long count;
};

// The best `wanted` of unique keys, of which 0 is none; `room` holds as many. Every thread of the block calls it.
DEVICE_INLINE Best best_of(const Key* keys, long long count, long long wanted, Key* room, BestScratch& scratch) {
  const Key floor = floor_of(keys, count, static_cast<unsigned>(wanted), 0, scratch.select);
  __syncthreads();
  Key* const sorted = wanted <= short_best ? scratch.own : room;
  long long found = 0;
  for (long long first = 0; first < count; first += blockDim.x) {
    const long long i = first + threadIdx.x;
    const Key key = i < count ? keys[i] : 0;
    const Before before = sum_before(key >= floor, scratch.select.warps);
    if (key >= floor && found + before.mine < wanted) sorted[found + before.mine] = ~key;
    found += before.all;
    __syncthreads();
  }
  if (found > wanted) found = wanted;  // keys that are not unique
  sort_keys(sorted, found);
  return {sorted, found};
}
