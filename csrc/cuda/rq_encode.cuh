// Vectors -> codes of a residual quantizer, the nearest code level after level, for a whole batch in one launch.
//
// Products in bfloat16 leave the codes that can win: all within twice the proven error of the best. Mostly that is one;
// else the few are scored again in float32, and what that leaves as defined: float64, 16 lanes, ties to the lower code.
#include "rq_product.cuh"

namespace rq {

constexpr int most_listed = 16;  // codes of a row's list; where more can win, the level is scored again

DEVICE_INLINE int level_of(const Levels& levels, Offset code) {
  int level = 0;
  while (level + 1 < levels.num_levels && code >= levels.first[level + 1]) ++level;
  return level;
}

// What a level's codes have in common: the mean of 512 at most (any point is right). A thread takes a column.
DEVICE_INLINE void find_centres(const Levels& levels, float* centres) {
  constexpr int sample = 512;
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), level = static_cast<int>(blockIdx.y);
  if (column >= levels.depth) return;
  const int count = levels.count(level), step = (count + sample - 1) / sample;
  double sum = 0.0, number = 0.0;
  for (int k = 0; k < count; k += step, number += 1.0) sum += static_cast<double>(levels.code(level, k)[column]);
  centres[static_cast<Offset>(level) * levels.depth + column] = static_cast<float>(sum / number);
}

// Not below a length, as bits that are ordered as it is; finite.
DEVICE_INLINE unsigned bits_above(double half_squares) {
  const double length = sqrt(2.0 * half_squares) * (1.0 + 1e-6);
  return __float_as_uint((length < 1e38 ? static_cast<float>(length) : 1e38f) + 1e-37f);
}

// Rounds codes, and bounds them; half a warp takes a code. Equal codes have equal `hashes`.
DEVICE_INLINE void prepare_codes(const Levels& levels, unsigned short* rounded, float* starts, double* half_norms,
                                 unsigned* bounds, unsigned long long* hashes) {
  const Offset all = levels.first[levels.num_levels];
  const Offset number = (static_cast<Offset>(blockIdx.x) * blockDim.x + threadIdx.x) / 16;
  const Offset code = smaller(number, all - 1);
  const int part = static_cast<int>(threadIdx.x) % 16, level = level_of(levels, code);
  const float* from = levels.books + code * levels.depth;
  const float* centre = levels.centre(level);
  double squares = 0.0, apart = 0.0, lost = 0.0;
  unsigned long long hash = static_cast<unsigned long long>(part);
  for (int d = part; d < levels.padded; d += 16) {
    const float c = d < levels.depth ? from[d] : 0.0f, shifted = d < levels.depth ? c - centre[d] : 0.0f;
    const unsigned short near = float_to_bfloat16(shifted);
    const double taken = static_cast<double>(shifted) - static_cast<double>(bfloat16_to_float(near));
    if (number < all) rounded[code * levels.padded + d] = near;
    squares += static_cast<double>(c) * static_cast<double>(c);
    apart += static_cast<double>(shifted) * static_cast<double>(shifted);
    lost += taken * taken;
    hash = (hash ^ __float_as_uint(c + 0.0f)) * 0x9e3779b97f4a7c15ull;  // -0 is 0
    hash ^= hash >> 29;
  }
  squares = 0.5 * sum_of_lanes(squares);
  apart = 0.5 * sum_of_lanes(apart);
  lost = 0.5 * sum_of_lanes(lost);
  for (int step = 8; step; step /= 2) hash += __shfl_xor_sync(all_lanes, hash, step, 16);
  if (number >= all || part != 0) return;
  half_norms[code] = squares;
  starts[code] = static_cast<float>(apart < 1e38 ? apart : 1e38);
  hashes[code] = hash;
  unsigned* bound = bounds + 4 * level;
  if (squares < 1e300) {
    atomicMax(bound, bits_above(squares));
    atomicMax(bound + 1, bits_above(apart));
    atomicMax(bound + 2, bits_above(lost));
  } else {
    atomicMax(bound + 3, 1u);  // NaN or infinity: the squares of float32 numbers do not reach so far
  }
}

// Of equal codes the lowest wins, so the others need not be looked at: those of a collapsed codebook are often equal.
DEVICE_INLINE void strike_equals(const Levels& levels, const unsigned long long* hashes, float* starts) {
  const Offset code = static_cast<Offset>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (code >= levels.first[levels.num_levels]) return;
  const float* own = levels.books + code * levels.depth;
  for (Offset other = levels.first[level_of(levels, code)]; other < code; ++other) {
    if (__ldg(hashes + other) != hashes[code]) continue;
    int d = 0;
    while (d < levels.depth && own[d] == levels.books[other * levels.depth + d]) ++d;
    if (d < levels.depth) continue;
    starts[code] = infinity();
    return;
  }
}

// Each row's codes that can win, and what is known of the row.
struct Lists {
  float scores[block_rows][most_listed], bar[block_rows], slack[block_rows], fine_slack[block_rows];
  int count[block_rows];  // above most_listed: there were more
  unsigned short codes[block_rows][most_listed];
  unsigned char alive[block_rows], regular[block_rows];

  // Drops what is below the row's bar.
  DEVICE_INLINE void drop(int slot) {
    if (count[slot] > most_listed) return;
    int kept = 0;
    for (int i = 0; i < count[slot]; ++i)
      if (scores[slot][i] >= bar[slot]) {
        scores[slot][kept] = scores[slot][i];
        codes[slot][kept++] = codes[slot][i];
      }
    count[slot] = kept;
  }
};

template <class Element>
struct Encoder {
  const Levels& levels;
  const typename Element::Type* x;
  Offset num_rows, first;  // of all rows; the block's first
  int* out;                // [num_rows, num_levels]
  Lists& lists;
  int level;

  DEVICE_INLINE bool is_there(int slot) const { return lists.alive[slot] != 0; }
  DEVICE_INLINE Residual<Element> residual(int slot) const {
    const Offset row = first + slot;
    return {levels, x + row * levels.depth, out + row * levels.num_levels, level};
  }

  DEVICE_INLINE void note(int slot, const Lengths& row, bool finite) const {
    const Bounds& codes = levels.bounds[level];
    const float float64 = defined_error(row.norm, codes.norm, levels.depth);
    lists.slack[slot] = 2.02f * (coarse_error(row, codes, levels.depth) + float64);
    lists.fine_slack[slot] = 2.02f * (fine_error(row, codes, levels.depth) + float64);
    lists.regular[slot] = is_regular(row, codes);
    lists.count[slot] = 0;
    if (finite && codes.wrong == 0u) return;
    lists.alive[slot] = 0;
    for (int l = 0; l < levels.num_levels; ++l) out[(first + slot) * levels.num_levels + l] = -1;
  }

  // A tile's scores enter the lists of the warp's rows; best: the best scores so far, of the lane's rows.
  DEVICE_INLINE void enter(int begin, int here, Sums& sums, float (&best)[4]) const {
    const float* starts = levels.starts + levels.first[level] + begin;
    float largest[4] = {-infinity(), -infinity(), -infinity(), -infinity()};
#pragma unroll
    for (int n = 0; n < tile_codes / 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float start = code_of(n, e) < here ? __ldg(starts + code_of(n, e)) : infinity();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& score = sums[i / 2][n][i % 2 * 2 + e];
          score = start < infinity() ? score - start : -infinity();
          largest[i] = fmaxf(largest[i], score);
        }
      }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int slot = row_of(i / 2, i % 2);
      float top = fmaxf(largest[i], __shfl_xor_sync(all_lanes, largest[i], 1));
      top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 2));
      best[i] = fmaxf(best[i], top);
      const float bar = best[i] - lists.slack[slot];
      if (threadIdx.x % 4 == 0) lists.bar[slot] = bar;
      if (!lists.alive[slot] || !lists.regular[slot] || !(largest[i] >= bar)) continue;
#pragma unroll
      for (int n = 0; n < tile_codes / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float score = sums[i / 2][n][i % 2 * 2 + e];
          if (!(score >= bar)) continue;
          const int place = atomicAdd(&lists.count[slot], 1);
          if (place >= most_listed) continue;
          lists.scores[slot][place] = score;
          lists.codes[slot][place] = static_cast<unsigned short>(begin + code_of(n, e));
        }
    }
    __syncwarp();
    lists.drop(static_cast<int>(threadIdx.x));
    __syncwarp();
  }

  // r' c' - |c'|^2 / 2 in float32, by the warp.
  DEVICE_INLINE float fine_score(const Residual<Element>& row, int k) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const float* centre = levels.centre(level);
    const float* code = levels.code(level, k);
    float sum = 0.0f;
    for (int from = 0; from < levels.depth; from += 32 * group) {
      float r[group];
      row.template take<32>(r, from, lane);
#pragma unroll
      for (int e = 0; e < group; ++e) {
        const int d = from + lane + 32 * e;
        if (d >= levels.depth) continue;
        const float middle = __ldg(centre + d);
        sum = fmaf(r[e] - middle, __ldg(code + d) - middle, sum);
      }
    }
    return sum_of_warp(sum) - levels.starts[levels.first[level] + k];
  }

  struct Winner {
    double score;
    int code;
    DEVICE_INLINE void meet(double other, int k) {
      if (other < score || (other == score && k < code)) {
        score = other;
        code = k;
      }
    }
  };
  // Two codes meet the winner, each scored by half of the warp.
  DEVICE_INLINE void meet(const Residual<Element>& row, Winner& winner, int left, int right) const {
    const double own = row.score(threadIdx.x % 32 < 16 ? left : right);
    winner.meet(__shfl_sync(all_lanes, own, 0), left);
    winner.meet(__shfl_sync(all_lanes, own, 16), right);
  }

  // The winner as defined of a row whose list has not exactly one code; by the warp.
  DEVICE_INLINE int resolve(int slot) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, count = levels.count(level);
    const Residual<Element> row = residual(slot);
    Winner winner{static_cast<double>(infinity()), 0};
    if (!lists.regular[slot]) {
      for (int k = 0; k < count; k += 2) meet(row, winner, k, k + 1 < count ? k + 1 : k);
      return winner.code;
    }
    const bool listed = lists.count[slot] <= most_listed;
    const int number = listed ? lists.count[slot] : count;
    float best = -infinity();
    for (int pass = 0; pass < 2; ++pass)  // first the best, then who is near to it
      for (int from = 0; from < number; from += 32) {
        const int here = number - from < 32 ? number - from : 32;
        float own = -infinity();
        for (int i = 0; i < here; ++i) {
          const float score = fine_score(row, listed ? lists.codes[slot][i] : from + i);
          best = fmaxf(best, score);
          if (lane == i) own = score;
        }
        if (pass == 0 && !listed) continue;
        const float bar = best - lists.fine_slack[slot];
        unsigned left = __ballot_sync(all_lanes, own > -infinity() && own >= bar);
        if (listed && __popc(left) == 1) return lists.codes[slot][__ffs(static_cast<int>(left)) - 1];
        while (left != 0u) {
          const int one = __ffs(static_cast<int>(left)) - 1;
          left &= left - 1;
          const int two = left != 0u ? __ffs(static_cast<int>(left)) - 1 : one;
          left &= left - 1;
          meet(row, winner, listed ? lists.codes[slot][one] : from + one, listed ? lists.codes[slot][two] : from + two);
        }
        if (listed) return winner.code;
      }
    return winner.code;
  }

  DEVICE_INLINE void choose() const {
    const int own = static_cast<int>(threadIdx.x);  // the warp's lane i settles its row i, if that is easy
    const bool alive = lists.alive[own] != 0, easy = lists.regular[own] != 0 && lists.count[own] == 1;
    if (alive && easy) out[(first + own) * levels.num_levels + level] = lists.codes[own][0];
    unsigned left = __ballot_sync(all_lanes, alive && !easy);
    for (; left != 0u; left &= left - 1) {
      const int slot = own / 32 * 32 + __ffs(static_cast<int>(left)) - 1;
      const int code = resolve(slot);
      if (own % 32 == 0) out[(first + slot) * levels.num_levels + level] = code;
    }
    __syncwarp();
  }
};

// Blocks take 128 rows after 128 rows. staged: [blocks, block_rows, padded], where shared memory does not hold them.
template <class Element>
DEVICE_INLINE void encode(const Levels& levels, const typename Element::Type* x, Offset num_rows, int* out,
                          unsigned short* staged) {
  DEVICE_SHARED(char, memory);
  const Tiles tiles(memory, levels.padded, staged);
  Lists& lists = *reinterpret_cast<Lists*>(tiles.rest);
  const int own = static_cast<int>(threadIdx.x);
  for (Offset first = static_cast<Offset>(blockIdx.x) * block_rows; first < num_rows;
       first += static_cast<Offset>(gridDim.x) * block_rows) {
    lists.alive[own] = first + own < num_rows;
    lists.count[own] = 0;
    __syncwarp();
    for (int level = 0; level < levels.num_levels; ++level) {
      const Encoder<Element> encoder{levels, x, num_rows, first, out, lists, level};
      prepare(tiles, levels.depth, levels.padded, levels.centre(level), encoder,
              [&](int slot, const Lengths& row, float, bool finite) { encoder.note(slot, row, finite); });
      float best[4] = {-infinity(), -infinity(), -infinity(), -infinity()};
      multiply(tiles, levels.padded, levels.products(level), levels.count(level),
               [&](int begin, int here, Sums& sums) { encoder.enter(begin, here, sums, best); });
      encoder.choose();
    }
  }
}

}  // namespace rq

// Blocks of 128 threads: (columns, levels).
extern "C" __global__ void rq_encode_centres(rq::Levels levels, float* centres) { rq::find_centres(levels, centres); }

// 16 threads a code.
extern "C" __global__ void rq_encode_codes(rq::Levels levels, unsigned short* rounded, float* starts,
                                           double* half_norms, unsigned* bounds, unsigned long long* hashes) {
  rq::prepare_codes(levels, rounded, starts, half_norms, bounds, hashes);
}

// A thread a code.
extern "C" __global__ void rq_encode_equals(rq::Levels levels, const unsigned long long* hashes, float* starts) {
  rq::strike_equals(levels, hashes, starts);
}

extern "C" __global__ void __launch_bounds__(128, 2)
    rq_encode_float32(rq::Levels levels, const float* x, long long num_rows, int* codes, unsigned short* staged) {
  rq::encode<Float32>(levels, x, num_rows, codes, staged);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    rq_encode_bfloat16(rq::Levels levels, const unsigned short* x, long long num_rows, int* codes,
                       unsigned short* staged) {
  rq::encode<Bfloat16>(levels, x, num_rows, codes, staged);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    rq_encode_float16(rq::Levels levels, const unsigned short* x, long long num_rows, int* codes,
                      unsigned short* staged) {
  rq::encode<Half>(levels, x, num_rows, codes, staged);
}
