// Attention over rows of unequal length, forward: out[i] = sum over seen j of weight(q[i] k[j]) v[j]. A team of warps
// takes 16 queries a warp of one row and head and passes over the keys that they see, a tile at a time; weights stay in
// registers between the two products. What the host cannot know without waiting (which row a tile belongs to, the
// longest row, whether a row breaks a rule) is written by jagged_attention_tiles, which runs before.
#include "attention_tile.cuh"

namespace attention {

// ---- what is known before the first product

// Whether every value that no row is to blame for is as the op demands; the longest row of keys. One block.
DEVICE_INLINE void examine(const Args& args, Offset* status) {
  __shared__ int fine;
  __shared__ Offset longest[32];
  if (threadIdx.x == 0) fine = args.offsets[0] == 0 && args.kv_offsets[0] == 0;
  __syncthreads();
  if (threadIdx.x == 0)
    fine &= args.offsets[args.num_rows] == args.num_queries && args.kv_offsets[args.num_rows] == args.num_keys;
  Offset most = 0;
  int good = 1;
  for (int row = static_cast<int>(threadIdx.x); row < args.num_rows; row += static_cast<int>(blockDim.x)) {
    const Offset queries = args.offsets[row + 1] - args.offsets[row];
    const Offset keys = args.kv_offsets[row + 1] - args.kv_offsets[row];
    good &= queries >= 0 && keys >= 0 && keys < 0x7fffffc0ll && queries < 0x7fffffc0ll;
    most = keys > most ? keys : most;
  }
  const Offset farthest = 1ll << 62;
  for (int i = static_cast<int>(threadIdx.x); args.time && i < args.num_thresholds; i += static_cast<int>(blockDim.x)) {
    good &= args.thresholds[i] > 0 && args.thresholds[i] <= farthest;
    good &= i == 0 || args.thresholds[i - 1] <= args.thresholds[i];
  }
  good = __syncthreads_and(good);
  for (int step = 16; step; step /= 2) {
    const Offset other = __shfl_xor_sync(all_lanes, most, step);
    most = other > most ? other : most;
  }
  if (threadIdx.x % 32 == 0) longest[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < static_cast<int>(blockDim.x) / 32; ++i) most = longest[i] > most ? longest[i] : most;
  status[status_valid] = fine && good;
  status[status_longest] = most;
}

// Whether row `row` keeps the rules; the warp's lanes look at its times together.
DEVICE_INLINE bool row_is_good(const Args& args, int row, int lane) {
  const Offset queries = args.offsets[row + 1] - args.offsets[row];
  const Offset keys = args.kv_offsets[row + 1] - args.kv_offsets[row];
  const Offset targets = args.num_targets ? args.num_targets[row] : 0;
  bool good = targets >= 0 && targets <= keys && (keys == 0 || args.context <= keys - targets);
  if (args.causal || args.num_targets || args.context || args.window) good = good && queries <= keys;
  if (args.max_seq_len) good = good && keys <= args.max_seq_len;
  if (args.distance) good = good && keys <= args.distance_size / 2 + 1 && queries <= args.distance_size / 2 + 1;
  const Offset farthest = 1ll << 62;
  if (args.time) {
    for (Offset j = args.kv_offsets[row] + lane; j < args.kv_offsets[row + 1]; j += 32)
      good = good && -farthest < args.key_times[j] && args.key_times[j] < farthest;
    for (Offset i = args.offsets[row] + lane; args.query_times && i < args.offsets[row + 1]; i += 32)
      good = good && -farthest < args.query_times[i] && args.query_times[i] < farthest;
  }
  return __all_sync(all_lanes, good);
}

DEVICE_INLINE int smallest_of_warp(int x) {
  for (int step = 16; step; step /= 2) x = smaller(x, __shfl_xor_sync(all_lanes, x, step));
  return x;
}
DEVICE_INLINE int greatest_of_warp(int x) { return -smallest_of_warp(-x); }

// Writes the tiles of row `row`: of `size` queries each, and of its keys where `key_tiles` is given. One warp.
DEVICE_INLINE void write_tiles(const Args& args, int row, int size, Tile* tiles, Offset num_tiles, Tile* key_tiles,
                               Offset num_key_tiles, Offset* status, int lane) {
  const Offset begin = args.offsets[row], end = args.offsets[row + 1];
  const Offset key_begin = args.kv_offsets[row], key_end = args.kv_offsets[row + 1];
  const bool inside = 0 <= begin && begin <= end && end <= args.num_queries && 0 <= key_begin && key_begin <= key_end &&
                      key_end <= args.num_keys && key_end - key_begin < 0x7fffffc0ll && end - begin < 0x7fffffc0ll;
  if (!inside) return;  // then the status says so, and nobody reads tiles
  const bool good = row_is_good(args, row, lane);
  if (!good && lane == 0) status[status_poisoned] = 1;
  const Row place(args, row, 0);
  const SeenRule rule(args, row, place.num_keys);
  const Offset first = first_tile(begin, row, size), after = first_tile(end, row + 1, size);
  for (Offset t = first; t < after && t < num_tiles; ++t) {
    const Offset start = (t - first) * size;
    Tile tile{start < place.num_queries ? row : -1, static_cast<int>(start), !good, 0x7fffffff, 0, 0x7fffffff, 0, 0};
    for (int i = lane; i < size; i += 32) {
      const int query = tile.first + i;
      if (!good || query >= place.num_queries) continue;
      const Seen seen = rule.seen(place.num_keys - place.num_queries + query);
      if (seen.first < seen.last) {
        tile.from = smaller(tile.from, seen.first);
        tile.until = larger(tile.until, seen.last);
      }
      if (seen.second < seen.end) {
        tile.second = smaller(tile.second, seen.second);
        tile.end = larger(tile.end, seen.end);
      }
    }
    tile.from = smallest_of_warp(tile.from);
    tile.until = greatest_of_warp(tile.until);
    tile.second = smallest_of_warp(tile.second);
    tile.end = greatest_of_warp(tile.end);
    tile.from = smaller(tile.from, tile.until);
    tile.second = smaller(tile.second, tile.end);
    if (lane == 0) tiles[t] = tile;
  }
  if (!key_tiles) return;
  const Offset first_key = first_tile(key_begin, row, size), after_key = first_tile(key_end, row + 1, size);
  for (Offset t = first_key + lane; t < after_key && t < num_key_tiles; t += 32) {
    const Offset start = (t - first_key) * size;
    key_tiles[t] = Tile{start < place.num_keys ? row : -1, static_cast<int>(start), !good, 0, 0, 0, 0, 0};
  }
}

// Block 0 examines the call; the warps of the others write the tiles of a row each.
DEVICE_INLINE void write_plan(const Args& args, int size, Tile* tiles, Offset num_tiles, Tile* key_tiles,
                              Offset num_key_tiles, Offset* status) {
  if (blockIdx.x == 0) {
    // Rows write all tiles but the last, which is there for calls whose offsets are wrong.
    if (threadIdx.x == 0) tiles[num_tiles - 1].row = -1;
    if (threadIdx.x == 0 && key_tiles) key_tiles[num_key_tiles - 1].row = -1;
    return examine(args, status);
  }
  const int warps = static_cast<int>(blockDim.x) / 32, warp = static_cast<int>(threadIdx.x) / 32;
  const Offset row = static_cast<Offset>(blockIdx.x - 1) * warps + warp;
  if (row < args.num_rows)
    write_tiles(args, static_cast<int>(row), size, tiles, num_tiles, key_tiles, num_key_tiles, status,
                static_cast<int>(threadIdx.x) % 32);
}

// ---- forward

// What a tile's scores become, for the two queries whose pairs a lane holds.
template <class Element, int N>
struct Weigher {
  const Args& args;
  const Row& row;
  const Bias bias;
  const Line (&lines)[2];
  RunningSoftmax softmax;

  DEVICE_INLINE Weigher(const Args& a, const Row& r, const Line (&l)[2]) : args(a), row(r), bias(a, r.head), lines(l) {}

  // Products of keys [from, from + 8 N) -> weights; `rescale` is what sums of earlier weights are to be multiplied by.
  DEVICE_INLINE void weigh(float (&x)[N][4], int from, int lane, float (&rescale)[2]) {
    const bool all =
        __all_sync(all_lanes, lines[0].sees_all(from, from + 8 * N) && lines[1].sees_all(from, from + 8 * N));
    unsigned seen[2] = {~0u, ~0u};  // a bit per pair of this lane, by row
    if (!all) find_seen(seen, from, lane);
    add_bias(x, seen, from, lane);
    rescale[0] = rescale[1] = 1.0f;
    if (args.softmax) {
      hide(x, seen);
      softmax.weigh(x, rescale);
    } else {
      silu(x, seen);
    }
    if (args.dropout_threshold) drop(x, from, lane);
  }

 private:
  static DEVICE_INLINE int bit(int n, int e) { return n * 2 + e % 2; }
  static DEVICE_INLINE int key(int from, int n, int e, int lane) { return from + n * 8 + lane % 4 * 2 + e % 2; }

  DEVICE_INLINE void find_seen(unsigned (&seen)[2], int from, int lane) const {
    seen[0] = seen[1] = 0;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (lines[e / 2].sees(key(from, n, e, lane))) seen[e / 2] |= 1u << bit(n, e);
  }
  DEVICE_INLINE void add_bias(float (&x)[N][4], const unsigned (&seen)[2], int from, int lane) const {
    Bucket buckets[2];
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        x[n][e] *= args.alpha;
        if (!(bias.distance || bias.time) || !(seen[e / 2] >> bit(n, e) & 1)) continue;
        const int j = key(from, n, e, lane);
        const Offset time = bias.time ? args.key_times[row.key_begin + j] : 0;
        x[n][e] += bias.of(args, lines[e / 2].position, j, lines[e / 2].time, time, buckets[e / 2]);
      }
  }
  DEVICE_INLINE void silu(float (&x)[N][4], const unsigned (&seen)[2]) const {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) x[n][e] = seen[e / 2] >> bit(n, e) & 1 ? x[n][e] * sigmoid<Element>(x[n][e]) : 0.0f;
  }
  DEVICE_INLINE void hide(float (&x)[N][4], const unsigned (&seen)[2]) const {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!(seen[e / 2] >> bit(n, e) & 1)) x[n][e] = negative_infinity();
  }
  DEVICE_INLINE void drop(float (&x)[N][4], int from, int lane) const {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (!kept(args, lines[e / 2].number, row.key_begin + key(from, n, e, lane))) x[n][e] = 0.0f;
  }
};

// Sizes of the forward kernels: keys of a tile, and whether the next one is fetched while this one is multiplied.
template <class Element, int Warps, int Slab>
struct ForwardShape {
  static constexpr bool wide = sizeof(Element) == 4;
  static constexpr int keys = Warps > 1 ? 64 : (wide ? 16 : 32);
  static constexpr int stages = Warps > 1 && !wide && Slab == 64 ? 2 : 1;
  static constexpr int rows = Team<Warps>::rows + stages * 2 * keys;  // of shared memory, for queries, keys and values
};

template <class Element, int Warps, int Slab>
DEVICE_INLINE void forward(const Args& args, const Tile* tiles, Offset num_tiles, const Offset* status, Element* out,
                           float* log_sums) {
  using Shape = ForwardShape<Element, Warps, Slab>;
  constexpr int keys = Shape::keys, step = row_step<Element, Slab>, N = keys / 8, M = Slab / 8;
  DEVICE_SHARED(Element, memory);
  const Team<Warps> team;
  Element* queries = memory + team.index * Shape::rows * step;
  Element* stages = queries + team.rows * step;

  const Offset unit = static_cast<Offset>(blockIdx.x) * team.per_block + team.index;
  if (unit >= num_tiles * args.num_heads) return;
  const int head = static_cast<int>(unit % args.num_heads), slab = static_cast<int>(blockIdx.y) * Slab;
  const Offset out_stride = static_cast<Offset>(args.num_heads) * args.value_width;
  const int columns = smaller(args.value_width - slab, Slab);
  if (!status[status_valid]) {  // then tiles say nothing: each unit takes its share of the elements
    const Offset begin = unit / args.num_heads * team.rows;
    const Offset count = args.num_queries - begin < team.rows ? args.num_queries - begin : team.rows;
    if (count > 0)
      poison(team, out + begin * out_stride + head * args.value_width + slab, out_stride, static_cast<int>(count),
             columns);
    return;
  }
  const Tile tile = tiles[unit / args.num_heads];
  if (tile.row < 0) return;
  const Row row(args, tile.row, head);
  const int count = smaller(row.num_queries - tile.first, team.rows);
  const Offset first_query = row.query_begin + tile.first;
  out += first_query * out_stride + head * args.value_width + slab;
  if (tile.poisoned) return poison(team, out, out_stride, count, columns);

  const Element* q = static_cast<const Element*>(args.q) + first_query * args.q_stride + head * args.width;
  const Element* k = static_cast<const Element*>(args.k) + row.key_begin * args.k_stride + head * args.width;
  const Element* v =
      static_cast<const Element*>(args.v) + row.key_begin * args.v_stride + head * args.value_width + slab;
  const SeenRule rule(args, tile.row, row.num_keys);
  const int own = team.warp * 16 + team.lane / 4;  // this lane's first query in the tile; the second is 8 behind
  const Line lines[2] = {row.line(args, rule, tile.first + own), row.line(args, rule, tile.first + own + 8)};
  Weigher<Element, N> weigher(args, row, lines);
  const KeyTiles passes(tile, keys);
  const bool vectors = args.whole_vectors != 0, slabs = args.width > Slab;

  const auto fetch_queries = [&](int at) {
    fetch_rows<Element, Slab, Team<Warps>::rows>(team, queries, q + at, args.q_stride, count,
                                                 smaller(args.width - at, Slab), vectors);
  };
  const auto fetch_keys = [&](int from, int stage, int at) {
    fetch_rows<Element, Slab, keys>(team, stages + stage * 2 * keys * step, k + from * args.k_stride + at,
                                    args.k_stride, row.num_keys - from, smaller(args.width - at, Slab), vectors);
  };
  const auto fetch = [&](int n) {
    const int from = passes.at(n) * keys, stage = n % Shape::stages;
    fetch_keys(from, stage, 0);
    fetch_rows<Element, Slab, keys>(team, stages + (stage * 2 + 1) * keys * step, v + from * args.v_stride,
                                    args.v_stride, row.num_keys - from, columns, vectors);
    if (slabs || n == 0) fetch_queries(0);
    copies_commit();
  };

  float sums[M][4];
  clear(sums);
  if (passes.count > 0) fetch(0);
  for (int n = 0; n < passes.count; ++n) {
    const int from = passes.at(n) * keys, stage = n % Shape::stages;
    const Element* key_rows = stages + stage * 2 * keys * step;
    if (Shape::stages == 2 && n + 1 < passes.count) {
      fetch(n + 1);
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    team.sync();
    float weights[N][4];
    clear(weights);
    multiply_rows<Slab>(weights, queries + team.warp * 16 * step, key_rows, smaller(args.width, Slab), team.lane);
    for (int at = Slab; at < args.width; at += Slab) {  // wider heads: the next columns of queries and keys
      team.sync();
      fetch_queries(at);
      fetch_keys(from, stage, at);
      copies_commit();
      copies_wait<0>();
      team.sync();
      multiply_rows<Slab>(weights, queries + team.warp * 16 * step, key_rows, smaller(args.width - at, Slab),
                          team.lane);
    }
    float rescale[2];
    weigher.weigh(weights, from, team.lane, rescale);
    if (args.softmax) scale_sums(sums, rescale);
    multiply_weights<Slab>(sums, weights, key_rows + keys * step, columns, team.lane);
    team.sync();
    if (Shape::stages == 1 && n + 1 < passes.count) fetch(n + 1);
  }

  float factors[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    factors[r] = weight_scale(args, status) * args.kept_scale;
    if (!args.softmax) continue;
    const float total = sum_of_row(weigher.softmax.total[r]);
    const Seen& seen = lines[r].seen;
    const bool blind = seen.first >= seen.last && seen.second >= seen.end;
    // Scores that are all -inf have no weights: NaN, as in the twin.
    factors[r] = total == 0.0f ? (blind ? 0.0f : not_a_number()) : args.kept_scale / total;
    if (slab == 0 && team.lane % 4 == 0 && own + 8 * r < count)
      log_sums[(first_query + own + 8 * r) * args.num_heads + head] =
          total == 0.0f ? negative_infinity() : weigher.softmax.highest[r] + logf(total);
  }
  store_sums(sums, out + team.warp * 16 * out_stride, out_stride, count - team.warp * 16, columns, factors[0],
             factors[1], team.lane);
}

}  // namespace attention

// size: queries (and keys) of a tile, those of the team that will take it. status: [3], the last 0 where it is read.
// Blocks: one, and one more for every 8 rows, of 256 threads.
extern "C" __global__ void jagged_attention_tiles(attention::Args args, int size, attention::Tile* tiles,
                                                  long long num_tiles, attention::Tile* key_tiles,
                                                  long long num_key_tiles, long long* status) {
  attention::write_plan(args, size, tiles, num_tiles, key_tiles, num_key_tiles, status);
}

// Blocks of 128 threads: teams for num_tiles * num_heads, by slabs of value_width. long: the block is one team; short:
// four teams of a warp. The number: columns of a slab.
extern "C" __global__ void __launch_bounds__(128, 3)
    jagged_attention_long64_bfloat16(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                     const long long* status, unsigned short* out, float* log_sums) {
  attention::forward<unsigned short, 4, 64>(args, tiles, num_tiles, status, out, log_sums);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_long128_bfloat16(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                      const long long* status, unsigned short* out, float* log_sums) {
  attention::forward<unsigned short, 4, 128>(args, tiles, num_tiles, status, out, log_sums);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    jagged_attention_short64_bfloat16(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                      const long long* status, unsigned short* out, float* log_sums) {
  attention::forward<unsigned short, 1, 64>(args, tiles, num_tiles, status, out, log_sums);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_long64_float32(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                    const long long* status, float* out, float* log_sums) {
  attention::forward<float, 4, 64>(args, tiles, num_tiles, status, out, log_sums);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    jagged_attention_short64_float32(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                     const long long* status, float* out, float* log_sums) {
  attention::forward<float, 1, 64>(args, tiles, num_tiles, status, out, log_sums);
}
