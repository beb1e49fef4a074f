// Attention of one level of a beam search, as ops/reference/beam_attention.py defines it: a query sees its user's
// prompt, which all beams share, and the chain of rows that it descends from, found by the numbers of their parents.
// Two kernels:
//
//   prompt  a block per 64 queries that share a head of keys, and per `chunk` keys of a prompt: the chunk's weighted
//           values, the highest score and the sum of weights
//   chain   a warp per query and head: adds up the chunks in their order, then the chain from the query's own row up
//
// Chunks are counted from the beginning of the user's own prompt, so a query's bits depend on no other user or beam.
#include "beam_chain.cuh"

namespace beam_attention {

constexpr int query_rows = 64, tile_keys = 64;

// The user whose chunk `unit` is: the last one whose first chunk is not behind it.
DEVICE_INLINE int user_of(const Args& args, Offset unit) {
  int low = 0, high = args.users - 1;
  while (low < high) {
    const int middle = low + (high - low + 1) / 2;
    if (first_tile(args.offsets[middle], middle, chunk) <= unit)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// Rows [0, 64) of queries from `first` on, as fetch_rows does; query r is beam r / group, head r % group of `head`'s.
template <class T, int Slab>
DEVICE_INLINE void fetch_queries(const Args& args, const T* q, T* to, int first, int count, int group, int at) {
  constexpr int step = attention::row_step<T, Slab>, vector = attention::Kind<T>::vector;
  const int columns = smaller(args.width - at, Slab), padded = (columns + 15) / 16 * 16;
  const int size = args.whole_vectors ? vector : 1, units = padded / size;
  for (int i = static_cast<int>(threadIdx.x); i < query_rows * units; i += 128) {
    const int row = i / units, column = i % units * size, query = first + row;
    T* const place = to + row * step + column;
    if (row >= count || column >= columns) {
      for (int e = 0; e < size; ++e) place[e] = attention::Kind<T>::zero();
      continue;
    }
    const T* const from = q + query / group * args.q_beam + query % group * args.q_head + at + column;
    if (size == 1)
      *place = *from;
    else
      cp_async16(place, from);
  }
}

// Scores of keys from `count` on become those of keys that are not seen.
template <int N>
DEVICE_INLINE void hide_behind(float (&x)[N][4], int count, int lane) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (n * 8 + lane % 4 * 2 + e % 2 >= count) x[n][e] = negative_infinity();
}

template <class Element, int Slab>
struct PromptShape {
  using T = typename Element::Type;
  static constexpr int stages = sizeof(T) == 2 && Slab == 64 ? 2 : 1;
};

template <class Element, int Slab>
DEVICE_INLINE void attend_to_prompt(const Args& args, float* sums_of_chunks, float* peaks) {
  using T = typename Element::Type;
  constexpr int stages = PromptShape<Element, Slab>::stages, step = attention::row_step<T, Slab>;
  constexpr int N = tile_keys / 8, M = Slab / 8;
  DEVICE_SHARED(T, memory);
  T* const queries = memory;
  T* const tiles = memory + query_rows * step;
  const attention::Team<4> team;

  const int group = args.heads / args.key_heads, all_queries = args.beams * group;
  const int parts = (all_queries + query_rows - 1) / query_rows;
  const int part = static_cast<int>(blockIdx.x % parts),
            key_head = static_cast<int>(blockIdx.x / parts % args.key_heads);
  const Offset unit = blockIdx.x / parts / args.key_heads;
  const int user = user_of(args, unit);
  const Offset begin = args.offsets[user], end = args.offsets[user + 1];
  if (begin < 0 || end < begin || end > args.prompt_rows) return;  // `chain` says so
  const int length = static_cast<int>(end - begin);
  const Offset from = (unit - first_tile(begin, user, chunk)) * chunk;
  if (from < 0 || from >= length) return;  // a user has room for one chunk more than it may fill
  const int keys = smaller(length - static_cast<int>(from), chunk);
  const int first = part * query_rows, count = smaller(all_queries - first, query_rows);
  const int slab = static_cast<int>(blockIdx.y) * Slab, columns = smaller(args.value_width - slab, Slab);
  const bool vectors = args.whole_vectors != 0, slabs = args.width > Slab;

  const T* const q = static_cast<const T*>(args.q) + user * args.q_user + key_head * group * args.q_head;
  const T* const k =
      static_cast<const T*>(args.prompt_keys) + (begin + from) * args.prompt_key_row + key_head * args.prompt_key_head;
  const T* const v = static_cast<const T*>(args.prompt_values) + (begin + from) * args.prompt_value_row +
                     key_head * args.prompt_value_head + slab;

  const auto fetch_keys = [&](int n, int at) {
    attention::fetch_rows<T, Slab, tile_keys>(team, tiles + n % stages * 2 * tile_keys * step,
                                              k + n * tile_keys * args.prompt_key_row + at, args.prompt_key_row,
                                              keys - n * tile_keys, smaller(args.width - at, Slab), vectors);
  };
  const auto fetch = [&](int n) {
    fetch_keys(n, 0);
    attention::fetch_rows<T, Slab, tile_keys>(team, tiles + (n % stages * 2 + 1) * tile_keys * step,
                                              v + n * tile_keys * args.prompt_value_row, args.prompt_value_row,
                                              keys - n * tile_keys, columns, vectors);
    if (slabs || n == 0) fetch_queries<T, Slab>(args, q, queries, first, count, group, 0);
    copies_commit();
  };

  // This lane's two queries: which head's, and where they stand.
  const int own[2] = {team.warp * 16 + team.lane / 4, team.warp * 16 + team.lane / 4 + 8};
  int head[2] = {0, 0};
  int last[2] = {0, 0};  // how many tokens behind the chunk's first key
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int query = first + own[r];
    head[r] = key_head * group + query % group;
    if (!args.bias || own[r] >= count) continue;
    last[r] = length - 1 - static_cast<int>(from);
    Chain chain(args, user, query / group);
    while (chain.next() >= 0) ++last[r];
  }

  attention::RunningSoftmax softmax;
  float sums[M][4];
  attention::clear(sums);
  const int passes = (keys + tile_keys - 1) / tile_keys;
  fetch(0);
  for (int n = 0; n < passes; ++n) {
    const T* const key_rows = tiles + n % stages * 2 * tile_keys * step;
    if (stages == 2 && n + 1 < passes) {
      fetch(n + 1);
      copies_wait<1>();
    } else {
      copies_wait<0>();
    }
    team.sync();
    float weights[N][4];
    attention::clear(weights);
    const T* const own_rows = queries + team.warp * 16 * step;
    attention::multiply_rows<Slab, Element>(weights, own_rows, key_rows, smaller(args.width, Slab), team.lane);
    for (int at = Slab; at < args.width; at += Slab) {  // wider heads: the next columns of queries and keys
      team.sync();
      fetch_queries<T, Slab>(args, q, queries, first, count, group, at);
      fetch_keys(n, at);
      copies_commit();
      copies_wait<0>();
      team.sync();
      attention::multiply_rows<Slab, Element>(weights, own_rows, key_rows, smaller(args.width - at, Slab), team.lane);
    }
#pragma unroll
    for (int i = 0; i < N; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        weights[i][e] *= args.scale;
        const int key = n * tile_keys + i * 8 + team.lane % 4 * 2 + e % 2;
        if (args.bias && key < keys) weights[i][e] += bias_at(args, head[e / 2], larger(last[e / 2] - key, 0));
      }
    hide_behind(weights, keys - n * tile_keys, team.lane);
    float rescale[2];
    softmax.weigh(weights, rescale);
    attention::scale_sums(sums, rescale);
    attention::multiply_weights<Slab, Element>(sums, weights, key_rows + tile_keys * step, columns, team.lane);
    team.sync();
    if (stages == 1 && n + 1 < passes) fetch(n + 1);
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float total = attention::sum_of_row(softmax.total[r]);
    if (own[r] >= count) continue;
    const int beam = (first + own[r]) / group;
    const Offset row = (unit * args.beams + beam) * args.heads + head[r];
    if (slab == 0 && team.lane % 4 == 0) {
      peaks[2 * row] = softmax.highest[r];
      peaks[2 * row + 1] = total;
    }
    float* const to = sums_of_chunks + row * args.value_width + slab;
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = m * 8 + team.lane % 4 * 2 + e;
        if (column < columns) to[column] = sums[m][2 * r + e];
      }
  }
}

}  // namespace beam_attention

// Blocks of 128 threads: chunks * key_heads * ceil(beams * group / 64), by slabs of value_width. The number: a slab's
// columns. sums: [chunks, beams, heads, value_width]; peaks: [chunks, beams, heads, 2], the highest score and the sum
// of weights.
extern "C" __global__ void __launch_bounds__(128, 3)
    beam_attention_prompt64_bfloat16(beam_attention::Args args, float* sums, float* peaks) {
  beam_attention::attend_to_prompt<Bfloat16, 64>(args, sums, peaks);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    beam_attention_prompt128_bfloat16(beam_attention::Args args, float* sums, float* peaks) {
  beam_attention::attend_to_prompt<Bfloat16, 128>(args, sums, peaks);
}
extern "C" __global__ void __launch_bounds__(128, 3)
    beam_attention_prompt64_float16(beam_attention::Args args, float* sums, float* peaks) {
  beam_attention::attend_to_prompt<Half, 64>(args, sums, peaks);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    beam_attention_prompt128_float16(beam_attention::Args args, float* sums, float* peaks) {
  beam_attention::attend_to_prompt<Half, 128>(args, sums, peaks);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    beam_attention_prompt64_float32(beam_attention::Args args, float* sums, float* peaks) {
  beam_attention::attend_to_prompt<Float32, 64>(args, sums, peaks);
}

// Blocks of 128 threads: a warp per query and head. The number: the most columns of a head.
extern "C" __global__ void __launch_bounds__(128)
    beam_attention_chain128_bfloat16(beam_attention::Args args, const float* sums, const float* peaks,
                                     unsigned short* out) {
  beam_attention::attend_to_chain<Bfloat16, 128>(args, sums, peaks, out);
}
extern "C" __global__ void __launch_bounds__(128)
    beam_attention_chain256_bfloat16(beam_attention::Args args, const float* sums, const float* peaks,
                                     unsigned short* out) {
  beam_attention::attend_to_chain<Bfloat16, 256>(args, sums, peaks, out);
}
extern "C" __global__ void __launch_bounds__(128)
    beam_attention_chain128_float16(beam_attention::Args args, const float* sums, const float* peaks,
                                    unsigned short* out) {
  beam_attention::attend_to_chain<Half, 128>(args, sums, peaks, out);
}
extern "C" __global__ void __launch_bounds__(128)
    beam_attention_chain256_float16(beam_attention::Args args, const float* sums, const float* peaks,
                                    unsigned short* out) {
  beam_attention::attend_to_chain<Half, 256>(args, sums, peaks, out);
}
extern "C" __global__ void __launch_bounds__(128)
    beam_attention_chain128_float32(beam_attention::Args args, const float* sums, const float* peaks, float* out) {
  beam_attention::attend_to_chain<Float32, 128>(args, sums, peaks, out);
}
extern "C" __global__ void __launch_bounds__(128)
    beam_attention_chain256_float32(beam_attention::Args args, const float* sums, const float* peaks, float* out) {
  beam_attention::attend_to_chain<Float32, 256>(args, sums, peaks, out);
}
