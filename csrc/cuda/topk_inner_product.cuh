// The k largest inner products of every query with the rows of a table, the CPU's bits, without a matrix of scores.
//
// One pass over the table multiplies it with all queries on tensor cores in bfloat16 and keeps the best score of every
// group of 32 items, with a bound on its error: the k-th largest that a group surely has is a bar that k items reach.
// Groups that cannot reach it are out; all items of the others are scored as defined (float64, 16 lanes, rounded once).
// Excluded items are not looked up in the products: a query with e of them takes the bar of the (k + e)-th group.
#include "topk_products.cuh"

namespace topk {

// The sum over all threads; `parts` is shared, an int per warp.
DEVICE_INLINE int sum_of_block(int x, int* parts) {
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(all_lanes, x, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  int sum = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) sum += parts[w];
  __syncthreads();
  return sum;
}
// How many threads before this one say yes; `number` becomes how many do.
DEVICE_INLINE int place_in_block(bool mine, int& number, int* parts) {
  const unsigned found = __ballot_sync(all_lanes, mine);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = __popc(found);
  __syncthreads();
  int place = __popc(found & ((1u << threadIdx.x % 32) - 1u));
  number = 0;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) {
    place += w < threadIdx.x / 32 ? parts[w] : 0;
    number += parts[w];
  }
  __syncthreads();
  return place;
}

DEVICE_INLINE unsigned ordered(float x) {
  const unsigned bits = __float_as_uint(x);
  return bits >> 31 != 0u ? ~bits : bits | 0x80000000u;
}
DEVICE_INLINE float unordered(unsigned bits) { return __uint_as_float(bits >> 31 != 0u ? bits & 0x7fffffffu : ~bits); }
// By score downwards, then by item; -0 ranks as 0, and is remembered in the last bit.
DEVICE_INLINE Key key_of(float score, Offset item) {
  const Key minus_zero = __float_as_uint(score) == 0x80000000u ? 1u : 0u;
  return static_cast<Key>(~ordered(score + 0.0f)) << 32 | static_cast<Key>(item) << 1 | minus_zero;
}
DEVICE_INLINE float score_of(Key key) {
  return (key & 1u) != 0u ? -0.0f : unordered(~static_cast<unsigned>(key >> 32));
}
DEVICE_INLINE Offset item_of(Key key) { return static_cast<Offset>((key & 0xffffffffu) >> 1); }

// The key that k of the block's keys do not exceed; each(f) calls f for those of a thread.
template <class Each>
DEVICE_INLINE Key lowest_bar(Offset k, int* parts, const Each& each) {
  Key low = 0, high = ~static_cast<Key>(0);
  while (low < high) {
    const Key middle = low + (high - low) / 2;
    int own = 0;
    each([&](Key key) { own += key <= middle ? 1 : 0; });
    const int within = sum_of_block(own, parts);
    if (within == k) return middle;
    if (within > k)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// The score that the groups' best reach at least, (k + excluded)-th of them. A block a query, of any number of warps.
DEVICE_INLINE void find_bar(const Search& search) {
  __shared__ int parts[32];
  const Offset b = blockIdx.x;
  Offset wanted = search.k;
  if (search.excluded.offsets) wanted += search.excluded.offsets[b + 1] - search.excluded.offsets[b];
  unsigned low = 0, high = ~0u;  // as ordered()
  if (wanted > search.groups) high = 0;
  while (low < high) {
    const unsigned middle = low + (high - low) / 2 + 1;
    int own = 0;
    for (Offset g = threadIdx.x; g < search.groups; g += blockDim.x)
      own += ordered(search.least[b * search.groups + g]) >= middle ? 1 : 0;
    const int reach = sum_of_block(own, parts);
    if (reach >= wanted)
      low = middle;
    else
      high = middle - 1;
    if (reach == wanted) break;
  }
  const float bar = unordered(low);
  if (threadIdx.x == 0) search.bars[b] = wanted > search.groups || !(bar == bar) ? -rq::infinity() : bar;
}

// The best k of a part of the groups, for one query, into its keys. Blocks: (queries, parts).
template <class Element>
DEVICE_INLINE void score_groups(const Search& search, const typename Element::Type* table) {
  __shared__ int parts[threads / 32], count, listed[threads];
  const Offset b = blockIdx.x, list = b * search.parts + blockIdx.y;
  const int own = static_cast<int>(threadIdx.x);
  const Offset first = search.groups * blockIdx.y / search.parts, end = search.groups * (blockIdx.y + 1) / search.parts;
  Key* keys = search.keys + list * search.capacity;
  const float bar = search.bars[b];
  Key limit = ~static_cast<Key>(0);  // what is not below is not among the best k
  if (own == 0) count = 0;
  __syncthreads();

  const auto keep_best = [&]() {
    limit = lowest_bar(search.k, parts, [&](const auto& f) {
      for (int i = own; i < count; i += threads) f(keys[i]);
    });
    int kept = 0;
    for (int from = 0; from < count; from += threads) {
      const Key key = from + own < count ? keys[from + own] : ~static_cast<Key>(0);
      int number = 0;
      const int place = place_in_block(from + own < count && key <= limit, number, parts);
      if (from + own < count && key <= limit) keys[kept + place] = key;
      kept += number;
    }
    __syncthreads();
    if (own == 0) count = kept;
    __syncthreads();
  };

  for (Offset from = search.is_wrong(b) ? end : first; from < end; from += threads) {
    const bool mine = from + own < end && search.may_reach(b, from + own, bar);
    int number = 0;
    const int place = place_in_block(mine, number, parts);
    if (mine) listed[place] = own;
    __syncthreads();
    for (int i = 0; i < number; ++i) {
      const int held = count;
      __syncthreads();  // before somebody adds to it
      if (held + group_items > search.capacity) keep_best();
      for (int round = 0; round < group_items; round += threads / 16) {
        const Offset item = (from + listed[i]) * group_items + round + own / 16;
        const Offset there = rq::smaller(item, search.num_items - 1);
        const Item<Element> row{table + there * search.depth, search.depth};
        double score = rq::defined_dot(row, search.depth, search.queries + b * search.depth);
        if (search.bias) score += static_cast<double>(search.bias[there]);
        const float rounded = static_cast<float>(score);
        const Key key = key_of(rounded, there);
        if (own % 16 != 0 || item != there || !(rounded > -rq::infinity() && rounded >= bar) || key >= limit) continue;
        if (!search.is_allowed(b, item) || is_listed(search.excluded, b, item)) continue;
        keys[atomicAdd(&count, 1)] = key;
      }
      __syncthreads();
    }
  }
  if (count > search.k) keep_best();
  if (own == 0) search.counts[list] = count;
}

// The best k of all parts in order: scores [num_queries, k], -infinity behind the last, and ids, -1 there. A block a
// query.
DEVICE_INLINE void merge_parts(const Search& search, float* scores, Offset* ids) {
  __shared__ int parts[32];
  const Offset b = blockIdx.x;
  const int own = static_cast<int>(threadIdx.x), all = static_cast<int>(blockDim.x);
  const int* counts = search.counts + b * search.parts;
  Offset total = 0;
  for (Offset part = 0; part < search.parts; ++part) total += counts[part];
  const auto each = [&](const auto& f) {
    for (Offset part = 0; part < search.parts; ++part)
      for (int i = own; i < counts[part]; i += all) f(search.keys[(b * search.parts + part) * search.capacity + i]);
  };
  const Key limit = total > search.k ? lowest_bar(search.k, parts, each) : ~static_cast<Key>(0);
  Key* sorted = search.sorted + b * search.places;
  Offset kept = 0;
  for (Offset part = 0; part < search.parts; ++part) {
    const Key* keys = search.keys + (b * search.parts + part) * search.capacity;
    for (int from = 0; from < counts[part]; from += all) {
      const bool mine = from + own < counts[part] && keys[from + own] <= limit;
      int number = 0;
      const int place = place_in_block(mine, number, parts);
      if (mine) sorted[kept + place] = keys[from + own];
      kept += number;
    }
  }
  for (Offset i = kept + own; i < search.places; i += all) sorted[i] = ~static_cast<Key>(0);
  __syncthreads();
  for (Offset size = 2; size <= search.places; size *= 2)  // bitonic
    for (Offset step = size / 2; step > 0; step /= 2) {
      for (Offset i = own; i < search.places; i += all) {
        const Offset other = i ^ step;
        const Key a = sorted[i];
        if (other <= i) continue;
        const Key c = sorted[other];
        if ((a > c) != ((i & size) == 0)) continue;
        sorted[i] = c;
        sorted[other] = a;
      }
      __syncthreads();
    }
  const bool wrong = search.is_wrong(b);
  for (Offset i = own; i < search.k; i += all) {
    const bool there = i < kept && !wrong;
    scores[b * search.k + i] = wrong ? __uint_as_float(0x7fc00000u) : there ? score_of(sorted[i]) : -rq::infinity();
    ids[b * search.k + i] = there ? item_of(sorted[i]) : -1;
  }
}

}  // namespace topk

// Each takes a tensor, which says the card. 16 threads a query.
extern "C" __global__ void topk_inner_product_queries(topk::Search search, const float*) {
  topk::prepare_queries(search);
}

// Blocks of 128 threads take 128 items after 128 items.
extern "C" __global__ void __launch_bounds__(128, 2)
    topk_inner_product_groups_float32(topk::Search search, const float* table, unsigned short* staged) {
  topk::multiply_table<Float32>(search, table, staged);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    topk_inner_product_groups_bfloat16(topk::Search search, const unsigned short* table, unsigned short* staged) {
  topk::multiply_table<Bfloat16>(search, table, staged);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    topk_inner_product_groups_float16(topk::Search search, const unsigned short* table, unsigned short* staged) {
  topk::multiply_table<Half>(search, table, staged);
}

// A block a query.
extern "C" __global__ void topk_inner_product_bars(topk::Search search, const float*) { topk::find_bar(search); }

// Blocks of 128 threads: (queries, parts).
extern "C" __global__ void topk_inner_product_scores_float32(topk::Search search, const float* table) {
  topk::score_groups<Float32>(search, table);
}
extern "C" __global__ void topk_inner_product_scores_bfloat16(topk::Search search, const unsigned short* table) {
  topk::score_groups<Bfloat16>(search, table);
}
extern "C" __global__ void topk_inner_product_scores_float16(topk::Search search, const unsigned short* table) {
  topk::score_groups<Half>(search, table);
}

// A block a query.
extern "C" __global__ void topk_inner_product_merge(topk::Search search, float* scores, long long* ids) {
  topk::merge_parts(search, scores, ids);
}
