// Backward: the products of a tile made again, and from them its weights and the slopes of its scores.
#pragma once
#include "attention_tile.cuh"

namespace attention {

// Five places of rows in shared memory, and what goes with a tile of the other side.
template <class Element, int Warps, int Slab>
struct BackwardShape {
  static constexpr int own = Team<Warps>::rows, other = Warps > 1 ? 32 : 16, step = row_step<Element, Slab>;
  static constexpr int rows = 2 * own + 2 * other;
  static constexpr int bytes = rows * step * static_cast<int>(sizeof(Element));
  static constexpr int lines = other * static_cast<int>(sizeof(Line));                 // of queries, for owners of keys
  static constexpr int slopes = 16 * (other + 1) * 4, buckets = 16 * (other + 2) * 2;  // of a warp
  static constexpr int tables = Warps * (slopes + buckets);                            // for owners of queries
};

// Rows of one head in memory.
template <class Element>
struct Side {
  const Element* rows;
  Offset stride;
  int count, width;
};

// The products of a pair's vectors and of its gradient and value -> its weight and the slope of its score.
struct Sloper {
  const Args& args;
  const Bias bias;
  Offset key_begin;
  float factor;

  DEVICE_INLINE Sloper(const Args& a, const Row& row, const Offset* status)
      : args(a), bias(a, row.head), key_begin(row.key_begin), factor(weight_scale(a, status) * a.kept_scale) {}

  template <class Element>
  DEVICE_INLINE void of_pair(const Line& line, int key, Offset key_time, Bucket& bucket, float& x, float& y) const {
    if (!line.sees(key)) {
      x = y = 0.0f;
      return;
    }
    const bool keep = !args.dropout_threshold || kept(args, line.number, key_begin + key);
    const bool biased = bias.distance || bias.time;
    const float score =
        fmaf(x, args.alpha, biased ? bias.of(args, line.position, key, line.time, key_time, bucket) : 0.0f);
    if (args.softmax) {
      const float weight = __expf(score - line.log_sum);
      y = weight * ((keep ? y * factor : 0.0f) - line.mean);
      x = keep ? weight : 0.0f;
    } else {
      const float s = sigmoid<Element>(score), weight = score * s;
      y = keep ? y * factor * fmaf(weight, 1.0f - s, s) : 0.0f;
      x = keep ? weight : 0.0f;
    }
  }
  DEVICE_INLINE float values_by() const { return args.softmax ? args.kept_scale : factor; }
};

// Products of a tile: x of queries with keys, y of gradients with values, own rows by the rows of the other side. Heads
// wider than a slab go in several, of which `slab` comes last and stays for the products that follow.
template <class Element, int Warps, int Slab>
struct Products {
  using Shape = BackwardShape<Element, Warps, Slab>;
  static constexpr int N = Shape::other / 8;
  const Team<Warps>& team;
  Element *own_x, *own_y, *other_x, *other_y;
  bool vectors;
  int slab;

  DEVICE_INLINE Products(const Team<Warps>& t, char* memory, bool v, int s) : team(t), vectors(v), slab(s) {
    own_x = reinterpret_cast<Element*>(memory);
    own_y = own_x + Shape::own * Shape::step;
    other_x = own_y + Shape::own * Shape::step;
    other_y = other_x + Shape::other * Shape::step;
  }

  static DEVICE_INLINE int slabs_of(int width) { return (width + Slab - 1) / Slab; }

  DEVICE_INLINE void fetch_own(const Side<Element>& x, const Side<Element>& y) const {
    if (slabs_of(x.width) == 1) fetch<Shape::own>(own_x, x, 0, 0);
    if (slabs_of(y.width) == 1) fetch<Shape::own>(own_y, y, 0, 0);
    copies_commit();
  }

  DEVICE_INLINE void make(float (&sums_x)[N][4], float (&sums_y)[N][4], const Side<Element>& mine_x,
                          const Side<Element>& mine_y, const Side<Element>& theirs_x, const Side<Element>& theirs_y,
                          int first) const {
    const int slabs_x = slabs_of(mine_x.width), slabs_y = slabs_of(mine_y.width), slabs = larger(slabs_x, slabs_y);
    clear(sums_x);
    clear(sums_y);
    for (int s = 0; s < slabs; ++s) {
      const int at_x = (slab + 1 + s) % slabs_x * Slab, at_y = (slab + 1 + s) % slabs_y * Slab;
      if (s > 0) team.sync();
      if (s < slabs_x) fetch_pair(own_x, mine_x, other_x, theirs_x, first, at_x);
      if (s < slabs_y) fetch_pair(own_y, mine_y, other_y, theirs_y, first, at_y);
      copies_commit();
      copies_wait<0>();
      team.sync();
      if (s < slabs_x) multiply(sums_x, own_x, other_x, mine_x.width - at_x);
      if (s < slabs_y) multiply(sums_y, own_y, other_y, mine_y.width - at_y);
    }
  }

 private:
  template <int Rows>
  DEVICE_INLINE void fetch(Element* to, const Side<Element>& side, int first, int at) const {
    fetch_rows<Element, Slab, Rows>(team, to, side.rows + first * side.stride + at, side.stride, side.count - first,
                                    smaller(side.width - at, Slab), vectors);
  }
  DEVICE_INLINE void fetch_pair(Element* own, const Side<Element>& mine, Element* other, const Side<Element>& theirs,
                                int first, int at) const {
    if (slabs_of(mine.width) > 1) fetch<Shape::own>(own, mine, 0, at);
    fetch<Shape::other>(other, theirs, first, at);
  }
  DEVICE_INLINE void multiply(float (&sums)[N][4], const Element* own, const Element* other, int columns) const {
    multiply_rows<Slab>(sums, own + team.warp * 16 * Shape::step, other, smaller(columns, Slab), team.lane);
  }
};

}  // namespace attention
