// Attention over rows of unequal length, backward, without atomics: a gradient is summed by the one warp that owns its
// rows, in the order of the tiles that it passes over. So scores and slopes are made twice, once for the warps that own
// keys (gradients of keys and values) and once for those that own queries (gradients of queries and of the bias'
// tables): seven products instead of five, and results that are the same from run to run.
#include "attention_slopes.cuh"
#include "attention_tables.cuh"

namespace attention {

struct Given {
  const void *grad, *out;         // as the result: [num_queries, num_heads, value_width]
  const float *log_sums, *means;  // [num_queries, num_heads], with softmax
};

// ---- sums of the slopes of a query's weights, softmax alone: means[i, h] = grad[i, h] out[i, h]

template <class Element>
DEVICE_INLINE void mean_slopes(const Element* grad, const Element* out, Offset count, int width, float* means) {
  const Offset i = static_cast<Offset>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (i >= count) return;
  float sum = 0;
  for (int c = lane; c < width; c += 32)
    sum += Kind<Element>::widen(grad[i * width + c]) * Kind<Element>::widen(out[i * width + c]);
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
  if (lane == 0) means[i] = sum;
}

// ---- gradients of keys and values

DEVICE_INLINE bool meets(const Tile& tile, int from, int until) {
  return (tile.from < until && tile.until > from) || (tile.second < until && tile.end > from);
}

template <class Element, int Warps, int Slab>
DEVICE_INLINE void keys_backward(const Args& args, const Tile* tiles, const Tile* key_tiles, Offset num_key_tiles,
                                 const Offset* status, const Given& given, Element* grad_k, Element* grad_v) {
  using Shape = BackwardShape<Element, Warps, Slab>;
  constexpr int N = Shape::other / 8, M = Slab / 8;
  DEVICE_SHARED(char, memory);
  const Team<Warps> team;
  char* mine = memory + team.index * (Shape::bytes + Shape::lines);
  Line* lines = reinterpret_cast<Line*>(mine + Shape::bytes);
  const Offset unit = static_cast<Offset>(blockIdx.x) * team.per_block + team.index;
  if (unit >= num_key_tiles * args.num_heads) return;
  const int head = static_cast<int>(unit % args.num_heads), slab = static_cast<int>(blockIdx.y), at = slab * Slab;
  const int columns = smaller(args.width - at, Slab), value_columns = smaller(args.value_width - at, Slab);
  const Offset k_stride = static_cast<Offset>(args.num_heads) * args.width;
  const Offset v_stride = static_cast<Offset>(args.num_heads) * args.value_width;
  const bool valid = status[status_valid] != 0;
  const Tile tile = valid ? key_tiles[unit / args.num_heads] : Tile{0, 0, 1, 0, 0, 0, 0, 0};
  if (tile.row < 0) return;
  const Offset first_key = valid ? args.kv_offsets[tile.row] + tile.first : unit / args.num_heads * team.rows;
  const Offset after = valid ? args.kv_offsets[tile.row + 1] : args.num_keys;
  const int count = after - first_key < team.rows ? static_cast<int>(after - first_key) : team.rows;
  grad_k += first_key * k_stride + head * args.width + at;
  grad_v += first_key * v_stride + head * args.value_width + at;
  if (tile.poisoned) {
    if (columns > 0) poison(team, grad_k, k_stride, count, columns);
    if (value_columns > 0) poison(team, grad_v, v_stride, count, value_columns);
    return;
  }
  const Row row(args, tile.row, head);
  const SeenRule rule(args, tile.row, row.num_keys);
  const Sloper sloper(args, row, status);
  const Offset grad_stride = v_stride;
  const Side<Element> keys{static_cast<const Element*>(args.k) + first_key * args.k_stride + head * args.width,
                           args.k_stride, count, args.width};
  const Side<Element> values{static_cast<const Element*>(args.v) + first_key * args.v_stride + head * args.value_width,
                             args.v_stride, count, args.value_width};
  const Side<Element> queries{static_cast<const Element*>(args.q) + row.query_begin * args.q_stride + head * args.width,
                              args.q_stride, row.num_queries, args.width};
  const Side<Element> grads{
      static_cast<const Element*>(given.grad) + row.query_begin * grad_stride + head * args.value_width, grad_stride,
      row.num_queries, args.value_width};
  const Products<Element, Warps, Slab> products(team, mine, args.whole_vectors != 0, slab);
  const Tile* row_tiles = tiles + first_tile(row.query_begin, tile.row, team.rows);
  const int own = tile.first + team.warp * 16 + team.lane / 4;  // this lane's first key; the second is 8 behind
  Offset key_times[2] = {0, 0};
  if (args.time)
    for (int r = 0; r < 2; ++r)
      if (own + 8 * r < row.num_keys) key_times[r] = args.key_times[row.key_begin + own + 8 * r];
  Bucket buckets[2];

  float key_sums[M][4], value_sums[M][4];
  clear(key_sums);
  clear(value_sums);
  products.fetch_own(keys, values);
  for (int first = 0; first < row.num_queries; first += Shape::other) {
    if (!meets(row_tiles[first / team.rows], tile.first, tile.first + count)) continue;
    team.sync();
    if (team.thread < Shape::other) {
      Line line = row.line(args, rule, first + team.thread);
      if (args.softmax && first + team.thread < row.num_queries) {
        const Offset query = (row.query_begin + first + team.thread) * args.num_heads + head;
        line.log_sum = given.log_sums[query];
        line.mean = given.means[query];
      }
      lines[team.thread] = line;
    }
    float x[N][4], y[N][4];
    products.make(x, y, keys, values, queries, grads, first);
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        sloper.of_pair<Element>(lines[n * 8 + team.lane % 4 * 2 + e % 2], own + e / 2 * 8, key_times[e / 2],
                                buckets[e / 2], x[n][e], y[n][e]);
    if (value_columns > 0) multiply_weights<Slab>(value_sums, x, products.other_y, value_columns, team.lane);
    if (columns > 0) multiply_weights<Slab>(key_sums, y, products.other_x, columns, team.lane);
  }
  copies_wait<0>();
  const int left = count - team.warp * 16;
  store_sums(key_sums, grad_k + team.warp * 16 * k_stride, k_stride, left, columns, args.alpha, args.alpha, team.lane);
  store_sums(value_sums, grad_v + team.warp * 16 * v_stride, v_stride, left, value_columns, sloper.values_by(),
             sloper.values_by(), team.lane);
}

// ---- gradients of queries and tables

template <class Element, int Warps, int Slab>
DEVICE_INLINE void queries_backward(const Args& args, const Tile* tiles, Offset num_tiles, Offset workers,
                                    const Offset* status, const Given& given, Element* grad_q, float* tables) {
  using Shape = BackwardShape<Element, Warps, Slab>;
  constexpr int N = Shape::other / 8, M = Slab / 8;
  DEVICE_SHARED(char, memory);
  const Team<Warps> team;
  const Offset unit = static_cast<Offset>(blockIdx.x) * team.per_block + team.index;
  if (unit >= workers * args.num_heads) return;
  const int head = static_cast<int>(unit % args.num_heads), slab = static_cast<int>(blockIdx.y), at = slab * Slab;
  const bool sums_tables = tables && slab == 0;
  char* mine = memory + team.index * (Shape::bytes + (tables ? Shape::tables : 0));
  const Products<Element, Warps, Slab> products(team, mine, args.whole_vectors != 0, slab);
  TableSums<Shape::other> table{};
  if (sums_tables) {
    char* place = mine + Shape::bytes + team.warp * (Shape::slopes + Shape::buckets);
    table.slopes = reinterpret_cast<float*>(place);
    table.buckets = reinterpret_cast<unsigned short*>(place + Shape::slopes);
    const int distance_size = args.distance ? args.distance_size : 0, time_size = args.time ? args.time_size : 0;
    float* sums = tables + (unit * Warps + team.warp) * (distance_size + time_size);
    table.distance = args.distance ? sums : nullptr;
    table.time = args.time ? sums + distance_size : nullptr;
  }
  const int columns = smaller(args.width - at, Slab);
  const Offset q_stride = static_cast<Offset>(args.num_heads) * args.width;
  const Offset grad_stride = static_cast<Offset>(args.num_heads) * args.value_width;
  for (Offset t = unit / args.num_heads; t < num_tiles; t += workers) {
    const bool valid = status[status_valid] != 0;
    const Tile tile = valid ? tiles[t] : Tile{0, 0, 1, 0, 0, 0, 0, 0};
    if (tile.row < 0) continue;
    const Offset first_query = valid ? args.offsets[tile.row] + tile.first : t * team.rows;
    const Offset after = valid ? args.offsets[tile.row + 1] : args.num_queries;
    const int count = after - first_query < team.rows ? static_cast<int>(after - first_query) : team.rows;
    Element* out = grad_q + first_query * q_stride + head * args.width + at;
    if (tile.poisoned) {
      poison(team, out, q_stride, count, columns);
      continue;
    }
    const Row row(args, tile.row, head);
    const SeenRule rule(args, tile.row, row.num_keys);
    const Sloper sloper(args, row, status);
    const Side<Element> queries{static_cast<const Element*>(args.q) + first_query * args.q_stride + head * args.width,
                                args.q_stride, count, args.width};
    const Side<Element> grads{
        static_cast<const Element*>(given.grad) + first_query * grad_stride + head * args.value_width, grad_stride,
        count, args.value_width};
    const Side<Element> keys{static_cast<const Element*>(args.k) + row.key_begin * args.k_stride + head * args.width,
                             args.k_stride, row.num_keys, args.width};
    const Side<Element> values{
        static_cast<const Element*>(args.v) + row.key_begin * args.v_stride + head * args.value_width, args.v_stride,
        row.num_keys, args.value_width};
    const int own = team.warp * 16 + team.lane / 4;
    Line lines[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      lines[r] = row.line(args, rule, tile.first + own + 8 * r);
      if (!args.softmax || own + 8 * r >= count) continue;
      const Offset query = (first_query + own + 8 * r) * args.num_heads + head;
      lines[r].log_sum = given.log_sums[query];
      lines[r].mean = given.means[query];
    }

    float query_sums[M][4];
    clear(query_sums);
    team.sync();
    products.fetch_own(queries, grads);
    const KeyTiles passes(tile, Shape::other);
    for (int n = 0; n < passes.count; ++n) {
      const int from = passes.at(n) * Shape::other;
      float x[N][4], y[N][4];
      team.sync();
      products.make(x, y, queries, grads, keys, values, from);
      Bucket buckets[2];
#pragma unroll
      for (int i = 0; i < N; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int place = i * 8 + team.lane % 4 * 2 + e % 2, key = from + place;
          const bool seen = lines[e / 2].sees(key);
          const Offset key_time = seen && args.time ? args.key_times[row.key_begin + key] : 0;
          sloper.of_pair<Element>(lines[e / 2], key, key_time, buckets[e / 2], x[i][e], y[i][e]);
          if (sums_tables)
            table.put(team.lane / 4 + e / 2 * 8, place, y[i][e],
                      seen ? buckets[e / 2].index : TableSums<Shape::other>::none);
        }
      multiply_weights<Slab>(query_sums, y, products.other_x, columns, team.lane);
      if (sums_tables) {
        __syncwarp();
        const int first = row.num_keys - row.num_queries + tile.first + team.warp * 16;  // position of the first query
        if (table.distance)
          table.add_distances(args.distance_size / 2 + Offset(from) - first, args.distance_size, team.lane);
        if (table.time) table.add_times(team.lane);
      }
    }
    copies_wait<0>();
    store_sums(query_sums, out + team.warp * 16 * q_stride, q_stride, count - team.warp * 16, columns, args.alpha,
               args.alpha, team.lane);
  }
}

}  // namespace attention

// A warp per query and head, blocks of 256 threads.
extern "C" __global__ void jagged_attention_means_bfloat16(const unsigned short* grad, const unsigned short* out,
                                                           long long count, int width, float* means) {
  attention::mean_slopes(grad, out, count, width, means);
}
extern "C" __global__ void jagged_attention_means_float32(const float* grad, const float* out, long long count,
                                                          int width, float* means) {
  attention::mean_slopes(grad, out, count, width, means);
}

// Names, blocks and threads as of the forward kernels; slabs of the wider of width and value_width.
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_keys_long64_bfloat16(attention::Args args, const attention::Tile* tiles,
                                          const attention::Tile* key_tiles, long long num_key_tiles,
                                          const long long* status, const void* grad, const void* out,
                                          const float* log_sums, const float* means, unsigned short* grad_k,
                                          unsigned short* grad_v) {
  attention::keys_backward<unsigned short, 4, 64>(args, tiles, key_tiles, num_key_tiles, status,
                                                  {grad, out, log_sums, means}, grad_k, grad_v);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_keys_long128_bfloat16(attention::Args args, const attention::Tile* tiles,
                                           const attention::Tile* key_tiles, long long num_key_tiles,
                                           const long long* status, const void* grad, const void* out,
                                           const float* log_sums, const float* means, unsigned short* grad_k,
                                           unsigned short* grad_v) {
  attention::keys_backward<unsigned short, 4, 128>(args, tiles, key_tiles, num_key_tiles, status,
                                                   {grad, out, log_sums, means}, grad_k, grad_v);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_keys_short64_bfloat16(attention::Args args, const attention::Tile* tiles,
                                           const attention::Tile* key_tiles, long long num_key_tiles,
                                           const long long* status, const void* grad, const void* out,
                                           const float* log_sums, const float* means, unsigned short* grad_k,
                                           unsigned short* grad_v) {
  attention::keys_backward<unsigned short, 1, 64>(args, tiles, key_tiles, num_key_tiles, status,
                                                  {grad, out, log_sums, means}, grad_k, grad_v);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_keys_long64_float32(attention::Args args, const attention::Tile* tiles,
                                         const attention::Tile* key_tiles, long long num_key_tiles,
                                         const long long* status, const void* grad, const void* out,
                                         const float* log_sums, const float* means, float* grad_k, float* grad_v) {
  attention::keys_backward<float, 4, 64>(args, tiles, key_tiles, num_key_tiles, status, {grad, out, log_sums, means},
                                         grad_k, grad_v);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_keys_short64_float32(attention::Args args, const attention::Tile* tiles,
                                          const attention::Tile* key_tiles, long long num_key_tiles,
                                          const long long* status, const void* grad, const void* out,
                                          const float* log_sums, const float* means, float* grad_k, float* grad_v) {
  attention::keys_backward<float, 1, 64>(args, tiles, key_tiles, num_key_tiles, status, {grad, out, log_sums, means},
                                         grad_k, grad_v);
}

// Teams for workers * num_heads, each for every workers-th tile; slabs of width. tables: null, or zeros, [workers,
// num_heads, warps of a team, distance_size + time_size], of the tables that are there.
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_queries_long64_bfloat16(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                             long long workers, const long long* status, const void* grad,
                                             const void* out, const float* log_sums, const float* means,
                                             unsigned short* grad_q, float* tables) {
  attention::queries_backward<unsigned short, 4, 64>(args, tiles, num_tiles, workers, status,
                                                     {grad, out, log_sums, means}, grad_q, tables);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_queries_long128_bfloat16(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                              long long workers, const long long* status, const void* grad,
                                              const void* out, const float* log_sums, const float* means,
                                              unsigned short* grad_q, float* tables) {
  attention::queries_backward<unsigned short, 4, 128>(args, tiles, num_tiles, workers, status,
                                                      {grad, out, log_sums, means}, grad_q, tables);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_queries_short64_bfloat16(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                              long long workers, const long long* status, const void* grad,
                                              const void* out, const float* log_sums, const float* means,
                                              unsigned short* grad_q, float* tables) {
  attention::queries_backward<unsigned short, 1, 64>(args, tiles, num_tiles, workers, status,
                                                     {grad, out, log_sums, means}, grad_q, tables);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_queries_long64_float32(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                            long long workers, const long long* status, const void* grad,
                                            const void* out, const float* log_sums, const float* means, float* grad_q,
                                            float* tables) {
  attention::queries_backward<float, 4, 64>(args, tiles, num_tiles, workers, status, {grad, out, log_sums, means},
                                            grad_q, tables);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    jagged_attention_queries_short64_float32(attention::Args args, const attention::Tile* tiles, long long num_tiles,
                                             long long workers, const long long* status, const void* grad,
                                             const void* out, const float* log_sums, const float* means, float* grad_q,
                                             float* tables) {
  attention::queries_backward<float, 1, 64>(args, tiles, num_tiles, workers, status, {grad, out, log_sums, means},
                                            grad_q, tables);
}

// Blocks of 256 threads: (size / 32 rounded up, tables of the bias).
extern "C" __global__ void jagged_attention_table(const float* tables, long long workers, int num_heads, int warps,
                                                  int begin, int step, int size, int shared, const long long* status,
                                                  float* out) {
  attention::add_tables(tables, workers, num_heads, warps, begin, step, size, shared != 0, status, out);
}
