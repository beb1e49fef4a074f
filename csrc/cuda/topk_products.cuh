// The first half of topk_inner_product: the best score of every group of 32 items for every query, from products on
// tensor cores in bfloat16, with a bound on how far it may be off.
#pragma once
#include "item_lists.cuh"
#include "rq_product.cuh"

namespace topk {

using rq::Offset;
using Key = unsigned long long;  // of a found item; the lower, the better; no two items have the same
constexpr int group_items = rq::warp_rows, threads = 128;

struct Search {                  // python/genrec_fast/ops/_cuda_topk.py writes the same
  const float* queries;          // [num_queries, depth]
  unsigned short* rounded;       // as bfloat16 [num_queries, padded]
  float2* lengths;               // [num_queries]: |query|, not below (NaN: not finite), and what rounding took
  const float* bias;             // [num_items] or null
  const unsigned char* allowed;  // query b may find item n where allowed[b allowed_stride + n]; null: all
  ItemLists excluded;
  float* least;     // [num_queries, groups]: what the best item has at least, as defined
  float4* bounds;   // [groups]: lengths of items and of what rounding took, and |bias|, not below
  float* bars;      // [num_queries]
  unsigned* wrong;  // not 0: the table or the bias is not finite
  Key* keys;        // [num_queries, parts, capacity]
  int* counts;      // [num_queries, parts]
  Key* sorted;      // [num_queries, places], places a power of two, at least k
  Offset num_queries, num_items, groups, k, parts, capacity, places, allowed_stride;
  int depth, padded;

  DEVICE_INLINE bool is_allowed(Offset b, Offset item) const { return !allowed || allowed[b * allowed_stride + item]; }
  // No answer can be given: something is not finite, or an excluded item is not there.
  DEVICE_INLINE bool is_wrong(Offset b) const {
    if (*wrong != 0u || lengths[b].x != lengths[b].x) return true;
    return is_wrong_list(excluded, b, num_items);
  }
  // How far a product of the query with an item of the group may be off the score as defined; infinity: no bound.
  DEVICE_INLINE float error(Offset b, Offset g) const {
    const float2 query = lengths[b];
    const float4 items = bounds[g];
    if (!(query.x < 1e18f && items.x < 1e18f && items.z < 1e37f)) return rq::infinity();
    const float count = static_cast<float>(depth), rounded_query = query.x + query.y;
    return 1.01f * ((count + 16.0f) * 4.0f * rq::unit * (items.x + items.y) * rounded_query + items.y * rounded_query +
                    items.x * query.y + 8.0f * rq::unit * (items.x * query.x + items.z) +
                    2.4e-38f * count * (1.0f + items.x + query.x));
  }
  // Whether an item of the group may reach the bar; where no item is allowed, none does.
  DEVICE_INLINE bool may_reach(Offset b, Offset g, float bar) const {
    const float off = error(b, g), least_of_best = least[b * groups + g];
    return !(off < rq::infinity()) || (least_of_best > -rq::infinity() && least_of_best + 2.0f * off >= bar);
  }
};

template <class Element>
struct Item {
  const typename Element::Type* x;
  int depth;
  template <int Stride>
  DEVICE_INLINE void take(float (&r)[rq::group], int from, int part) const {
#pragma unroll
    for (int i = 0; i < rq::group; ++i) {
      const int d = from + part + Stride * i;
      r[i] = d < depth ? Element::load(x[d]) : 0.0f;
    }
  }
};

// Queries as bfloat16, and their lengths; half a warp a query.
DEVICE_INLINE void prepare_queries(const Search& search) {
  const Offset own = (static_cast<Offset>(blockIdx.x) * blockDim.x + threadIdx.x) / 16;
  const Offset b = rq::smaller(own, search.num_queries - 1);
  const int part = static_cast<int>(threadIdx.x) % 16;
  float squares = 0.0f, lost = 0.0f;
  bool finite = true;
  for (int d = part; d < search.padded; d += 16) {
    const float x = d < search.depth ? search.queries[b * search.depth + d] : 0.0f;
    const unsigned short near = float_to_bfloat16(x);
    const float taken = x - bfloat16_to_float(near);
    if (own < search.num_queries) search.rounded[b * search.padded + d] = near;
    squares = fmaf(x, x, squares);
    lost = fmaf(taken, taken, lost);
    finite = finite && rq::is_finite(x);
  }
  for (int step = 8; step; step /= 2) {
    squares += __shfl_xor_sync(all_lanes, squares, step, 16);
    lost += __shfl_xor_sync(all_lanes, lost, step, 16);
  }
  const unsigned all_finite = __ballot_sync(all_lanes, finite) >> (threadIdx.x % 32 < 16 ? 0 : 16) & 0xffffu;
  if (own >= search.num_queries || part != 0) return;
  const float length = rq::length_above(squares, search.depth);
  search.lengths[b] = {all_finite == 0xffffu ? length : __uint_as_float(0x7fc00000u),
                       rq::length_above(lost, search.depth)};
}

// The block's items, in shared memory beside the tiles.
struct Slots {
  float norm[rq::block_rows], lost[rq::block_rows], bias[rq::block_rows];
  unsigned char open[rq::block_rows];  // it is there, and not forbidden to all
};

template <class Element>
struct Products {
  const Search& search;
  const typename Element::Type* table;
  Offset first;  // the block's first item
  Slots& slots;

  DEVICE_INLINE bool is_there(int slot) const { return first + slot < search.num_items; }
  DEVICE_INLINE Item<Element> residual(int slot) const { return {table + (first + slot) * search.depth, search.depth}; }
  DEVICE_INLINE Offset group() const { return first / group_items + static_cast<int>(threadIdx.x) / 32; }

  // Before the items are read: what is known of the thread's slot.
  DEVICE_INLINE void begin() const {
    const int slot = static_cast<int>(threadIdx.x);
    const bool there = is_there(slot);
    const float bias = there && search.bias ? search.bias[first + slot] : 0.0f;
    if (!rq::is_finite(bias)) atomicMax(search.wrong, 1u);
    slots.norm[slot] = slots.lost[slot] = 0.0f;
    slots.bias[slot] = bias;
    slots.open[slot] = there && (search.allowed_stride != 0 || search.is_allowed(0, first + slot));
    __syncwarp();
  }
  DEVICE_INLINE void note(int slot, const rq::Lengths& item, bool finite) const {
    slots.norm[slot] = item.norm;
    slots.lost[slot] = item.lost;
    if (!finite) atomicMax(search.wrong, 1u);
  }
  // The bounds of the warp's group.
  DEVICE_INLINE void bound() const {
    __syncwarp();
    const int slot = static_cast<int>(threadIdx.x);
    float norm = slots.norm[slot], lost = slots.lost[slot], bias = fabsf(slots.bias[slot]);
    for (int step = 16; step; step /= 2) {
      norm = fmaxf(norm, __shfl_xor_sync(all_lanes, norm, step));
      lost = fmaxf(lost, __shfl_xor_sync(all_lanes, lost, step));
      bias = fmaxf(bias, __shfl_xor_sync(all_lanes, bias, step));
    }
    if (slot % 32 == 0 && group() < search.groups) search.bounds[group()] = {norm, lost, bias, 0.0f};
    __syncwarp();
  }

  // A tile's scores, [items, queries]: the best of the warp's items for each query.
  DEVICE_INLINE void keep_best(int begin, int here, const rq::Sums& sums) const {
    constexpr int columns = rq::tile_codes / 4;  // of a lane
    float best[columns];
    float bias[4];
    bool open[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bias[i] = slots.bias[rq::row_of(i / 2, i % 2)];
      open[i] = slots.open[rq::row_of(i / 2, i % 2)] != 0;
    }
    const bool each = search.allowed && search.allowed_stride != 0;
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      const int query = rq::code_of(c / 2, c % 2);
      best[c] = -rq::infinity();
      if (query >= here) continue;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool mine = open[i] && (!each || search.is_allowed(begin + query, first + rq::row_of(i / 2, i % 2)));
        if (mine) best[c] = fmaxf(best[c], sums[i / 2][c / 2][i % 2 * 2 + c % 2] + bias[i]);
      }
    }
    // Over the 8 lanes of a column; each step halves the columns of a lane.
    int column = 0;
#pragma unroll
    for (int step = 4, half = columns / 2; step <= 16; step *= 2, half /= 2) {
      const bool upper = (threadIdx.x & static_cast<unsigned>(step)) != 0u;
#pragma unroll
      for (int c = 0; c < half; ++c) {
        const float given = __shfl_xor_sync(all_lanes, upper ? best[c] : best[c + half], step);
        best[c] = fmaxf(upper ? best[c + half] : best[c], given);
      }
      column += upper ? half : 0;
    }
    if (group() >= search.groups) return;
#pragma unroll
    for (int c = 0; c < columns / 8; ++c) {
      const int query = rq::code_of((column + c) / 2, (column + c) % 2);
      if (query >= here) continue;
      const float off = search.error(begin + query, group());
      search.least[(begin + query) * search.groups + group()] = off < rq::infinity() ? best[c] - off : -rq::infinity();
    }
  }
};

// staged: [blocks, block_rows, padded], where shared memory does not hold a block's items.
template <class Element>
DEVICE_INLINE void multiply_table(const Search& search, const typename Element::Type* table, unsigned short* staged) {
  DEVICE_SHARED(char, memory);
  const rq::Tiles tiles(memory, search.padded, staged);
  Slots& slots = *reinterpret_cast<Slots*>(tiles.rest);
  for (Offset first = static_cast<Offset>(blockIdx.x) * rq::block_rows; first < search.num_items;
       first += static_cast<Offset>(gridDim.x) * rq::block_rows) {
    const Products<Element> products{search, table, first, slots};
    products.begin();
    rq::prepare(tiles, search.depth, search.padded, nullptr, products,
                [&](int slot, const rq::Lengths& item, float, bool finite) { products.note(slot, item, finite); });
    products.bound();
    rq::multiply(tiles, search.padded, search.rounded, static_cast<int>(search.num_queries),
                 [&](int begin, int here, const rq::Sums& sums) { products.keep_best(begin, here, sums); });
  }
}

}  // namespace topk
