// From the rows of a trie that a search kept to the best k of their items, as ops/reference/expand_rows.py defines it.
// Two kernels:
//
//   items  a few blocks per user: 256 beams after 256 beams, whose items stand one behind the other; every 1024 of them
//          are a tile, and the blocks take tiles in turn. What beats the k-th so far goes to the block's buffer, which
//          is cut back to its best k when it is full
//   best   a block per user: the best k of all blocks, in order, with the codes and scores of their beams
//
// A key orders by the beam's rank, then by lower item, and is unique, as no row comes twice.
#include "best_keys.cuh"
#include "item_lists.cuh"
#include "trie.cuh"

constexpr int expand_threads = 256, expand_rounds = 4, expand_tile = expand_rounds * expand_threads;

struct ExpandRows {    // python/genrec_fast/ops/_cuda_expand_rows.py writes the same
  const int* rows;     // [users, beams], below 0: none
  const float* ranks;  // [users, beams]
  PackedOffsets leaf;  // items of row r: leaf_items[off(r)] to off(r + 1)
  const int* leaf_items;
  long long num_items;
  const unsigned char* allowed;  // user b may be shown item n where allowed[b * allowed_stride + n]; null: all
  ItemLists excluded;
  long long allowed_stride, users, beams, kept, parts, capacity;
  Key* buffers;  // [users, parts, capacity], at least kept + expand_tile
  int* sources;  // the same: their beams
  Key* found;    // [users, parts, kept], 0 behind the last
  int* beams_of_found;
  Key* sorted;  // [users, kept]
};

// No answer can be given: an excluded item is not there.
DEVICE_INLINE bool is_wrong(const ExpandRows& expand, long long user) {
  return is_wrong_list(expand.excluded, user, expand.num_items);
}

DEVICE_INLINE bool is_shown(const ExpandRows& expand, long long user, long long item) {
  if (expand.allowed && !expand.allowed[user * expand.allowed_stride + item]) return false;
  return !is_listed(expand.excluded, user, item);
}

// The tensor says the card.
extern "C" __global__ void __launch_bounds__(256) expand_rows_items(ExpandRows expand, const int*) {
  __shared__ SelectScratch scratch;
  __shared__ long long begins[expand_threads];
  __shared__ unsigned before[expand_threads], sizes[expand_threads], count;
  const int t = static_cast<int>(threadIdx.x);
  const long long user = blockIdx.x / expand.parts, part = blockIdx.x % expand.parts, list = blockIdx.x;
  const int* const rows = expand.rows + user * expand.beams;
  Key* const keys = expand.buffers + list * expand.capacity;
  int* const sources = expand.sources + list * expand.capacity;
  Key limit = 0;
  const auto cut = [&]() {
    const long long held = count < expand.capacity ? count : expand.capacity;
    limit = floor_of(keys, held, static_cast<unsigned>(expand.kept), 0, scratch);
    const long long left = keep_from(limit, keys, sources, held, scratch);
    if (t == 0) count = static_cast<unsigned>(left);
  };
  if (t == 0) count = 0;
  for (long long first = is_wrong(expand, user) ? expand.beams : 0; first < expand.beams; first += expand_threads) {
    const long long beam = first + t, row = beam < expand.beams ? rows[beam] : -1;
    long long begin = 0, size = 0;
    if (row >= 0 && row + 1 < expand.leaf.count) {
      begin = offset_at(expand.leaf, row);
      size = offset_at(expand.leaf, row + 1) - begin;
      if (begin < 0 || size < 0 || begin + size > expand.num_items) size = 0;
    }
    __syncthreads();  // all are done with the beams before
    const Before sum = sum_before(static_cast<unsigned>(size), scratch.warps);
    begins[t] = begin, sizes[t] = static_cast<unsigned>(size), before[t] = sum.mine;
    __syncthreads();
    for (long long tile = part * expand_tile; tile < sum.all; tile += expand.parts * expand_tile) {
      for (int round = 0; round < expand_rounds; ++round) {
        const long long place = tile + round * expand_threads + t;
        if (place >= sum.all) break;
        int at = 0;  // the last beam that begins here or before
        for (int half = expand_threads / 2; half > 0; half /= 2) at += before[at + half] <= place ? half : 0;
        const long long own = place - before[at];
        if (own >= sizes[at]) continue;  // rows that come twice, until their number wraps
        const long long item = expand.leaf_items[begins[at] + own];
        if (item < 0 || item >= expand.num_items) continue;
        const Key key = key_of(expand.ranks[user * expand.beams + first + at], item);
        if (key <= limit || !is_shown(expand, user, item)) continue;
        const unsigned to = atomicAdd(&count, 1u);
        if (to < expand.capacity) keys[to] = key, sources[to] = static_cast<int>(first + at);
      }
      __syncthreads();
      if (count > expand.kept && count + expand_tile > expand.capacity) cut();
      __syncthreads();
    }
  }
  __syncthreads();
  if (count > expand.kept) cut();
  __syncthreads();
  for (long long i = t; i < expand.kept; i += expand_threads) {
    const bool there = i < count && i < expand.capacity;
    expand.found[list * expand.kept + i] = there ? keys[i] : 0;
    expand.beams_of_found[list * expand.kept + i] = there ? sources[i] : 0;
  }
}

// Items [users, k], -1 behind the last; codes [users, k, levels] (-1) and scores [users, k] (-infinity) of their beams.
extern "C" __global__ void __launch_bounds__(1024)
    expand_rows_best(ExpandRows expand, const int* codes, const float* scores, int levels, long long k,
                     long long* out_items, int* out_codes, float* out_scores) {
  __shared__ BestScratch scratch;
  const long long user = blockIdx.x, count = expand.parts * expand.kept;
  const Key* const found = expand.found + user * count;
  const Best best = best_of(found, count, expand.kept, expand.sorted + user * expand.kept, scratch);
  const float nothing = is_wrong(expand, user) ? not_a_number() : negative_infinity();
  for (long long i = threadIdx.x; i < k * levels; i += blockDim.x) out_codes[user * k * levels + i] = -1;
  for (long long i = threadIdx.x; i < k; i += blockDim.x)
    out_items[user * k + i] = -1, out_scores[user * k + i] = nothing;
  __syncthreads();
  for (long long i = threadIdx.x; i < count; i += blockDim.x) {
    const Key key = found[i];
    long long low = 0, length = best.count;
    while (length > 0) {
      const long long half = length >> 1;
      const bool less = best.keys[low + half] < ~key;
      low += less ? half + 1 : 0;
      length = less ? length - half - 1 : half;
    }
    if (key == 0 || low == best.count || best.keys[low] != ~key) continue;
    const long long beam = user * expand.beams + expand.beams_of_found[user * count + i], to = user * k + low;
    out_items[to] = id_in(key);
    out_scores[to] = scores[beam];
    for (int level = 0; level < levels; ++level) out_codes[to * levels + level] = codes[beam * levels + level];
  }
}
