// rq_encode with several partial codes kept from level to level, for a whole batch in one launch.
//
// A block takes some rows with all their beams. Products in bfloat16 give every (beam, code) its |r - c|^2 / 2, to a
// proven error; what lies within twice that error of the keep-th smallest is scored as defined, in float64, and put in
// order. Where that is too many, or float32 says nothing, all pairs are scored so.
#include "rq_product.cuh"

namespace rq {

struct Beams {     // python/genrec_fast/ops/_rq_levels.py writes the same; one part of each per block
  double* scores;  // [rows, beams, codes]: as many beams and codes as the level has
  double* own;     // [rows, num_beams]: |r|^2 / 2 as defined
  double* exact;   // [warps, capacity]: scores of what is listed
  float* halves;   // [rows, beams]: |r'|^2 / 2
  float* errors;   // [rows, beams]: of a score; infinity where there is no bound, NaN where there is no score
  int* codes;      // [2, rows, num_beams, num_levels], read and written in turn
  int* listed;     // [warps, capacity]: beam * codes + code
  int* alive;      // [rows]
  int num_beams, rows, most_codes, capacity;

  DEVICE_INLINE Beams of_block(int num_levels) const {
    const Offset block = blockIdx.x, all = static_cast<Offset>(rows) * num_beams, list = block * 4 * capacity;
    return {scores + block * all * most_codes,
            own + block * all,
            exact + list,
            halves + block * all,
            errors + block * all,
            codes + block * 2 * all * num_levels,
            listed + list,
            alive + block * rows,
            num_beams,
            rows,
            most_codes,
            capacity};
  }
};

// A double as a whole number that is ordered as it is, and back.
DEVICE_INLINE unsigned long long key_of(double x) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(x));
  return bits >> 63 != 0u ? ~bits : bits | 1ull << 63;
}
DEVICE_INLINE double value_of(unsigned long long key) {
  return __longlong_as_double(static_cast<long long>(key >> 63 != 0u ? key & ~(1ull << 63) : ~key));
}

DEVICE_INLINE int lane_of() { return static_cast<int>(threadIdx.x) % 32; }

// A key that `keep` of the scores do not exceed, as low as can be; by the warp.
DEVICE_INLINE unsigned long long lowest_bar(const double* scores, int count, int keep) {
  unsigned long long low = ~0ull, high = 0;
  for (int i = lane_of(); i < count; i += 32) {
    low = min(low, key_of(scores[i]));
    high = max(high, key_of(scores[i]));
  }
  for (int step = 16; step; step /= 2) {
    low = min(low, __shfl_xor_sync(all_lanes, low, step));
    high = max(high, __shfl_xor_sync(all_lanes, high, step));
  }
  for (unsigned long long middle = low; low < high; middle = low + (high - low) / 2) {
    int within = 0;
    for (int i = lane_of(); i < count; i += 32) within += key_of(scores[i]) <= middle ? 1 : 0;
    for (int step = 16; step; step /= 2) within += __shfl_xor_sync(all_lanes, within, step);
    if (within == keep) return middle;
    if (within > keep)
      high = middle;
    else
      low = middle + 1;
  }
  return high;
}

// Lists the i below `count` that are wanted, in their order, behind `number` others; what exceeds `capacity` is
// counted.
template <class Wanted>
DEVICE_INLINE int collect(int* list, int number, int capacity, int count, const Wanted& wanted) {
  for (int from = 0; from < count; from += 32) {
    const int i = from + lane_of();
    const bool mine = i < count && wanted(i);
    const unsigned found = __ballot_sync(all_lanes, mine);
    const int place = number + __popc(found & ((1u << lane_of()) - 1u));
    if (mine && place < capacity) list[place] = i;
    number += __popc(found);
  }
  __syncwarp();
  return number;
}

template <class Element>
struct BeamEncoder {
  const Levels& levels;
  const typename Element::Type* x;
  Offset num_rows, first;  // of all rows; the block's first
  int* out;                // [num_rows, num_levels]
  const Beams& held;
  int level, beams;  // that each row has
  int base = 0;      // the first (row, beam) of those that a product takes

  DEVICE_INLINE int* codes_of(int turn, int row, int beam) const {
    return held.codes + ((static_cast<Offset>(turn) * held.rows + row) * held.num_beams + beam) * levels.num_levels;
  }
  DEVICE_INLINE bool is_alive(int row) const {
    return row < held.rows && first + row < num_rows && held.alive[row] != 0;
  }
  DEVICE_INLINE bool is_there(int slot) const { return is_alive((base + slot) / beams); }
  DEVICE_INLINE Residual<Element> beam(int row, int b) const {
    return {levels, x + (first + row) * levels.depth, codes_of(level % 2, row, b), level};
  }
  DEVICE_INLINE Residual<Element> residual(int slot) const {
    return beam((base + slot) / beams, (base + slot) % beams);
  }

  DEVICE_INLINE void note(int slot, const Lengths& row, float half, bool finite) const {
    const Bounds& codes = levels.bounds[level];
    const float scale = static_cast<float>(levels.depth + 16), squares = row.spread * row.spread;
    // To a product's error come those of |r'|^2 / 2 and of two additions, in float32 and as defined.
    const float error = coarse_error(row, codes, levels.depth) + 2.0f * scale * unit * squares +
                        4.0f * unit * (row.spread * codes.spread + codes.spread * codes.spread) +
                        defined_error(row.norm, codes.norm, levels.depth) +
                        scale * (unit * unit / 32.0f) * row.norm * row.norm;
    held.halves[base + slot] = half;
    held.errors[base + slot] = !finite || codes.wrong != 0u ? __uint_as_float(0x7fc00000u)
                               : is_regular(row, codes)     ? 2.02f * error
                                                            : infinity();
  }

  DEVICE_INLINE void store(int begin, int here, const Sums& sums) const {
    const int count = levels.count(level);
    const float* starts = levels.starts + levels.first[level] + begin;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int slot = row_of(i / 2, i % 2);
      if (!is_there(slot)) continue;
      double* to = held.scores + static_cast<Offset>(base + slot) * count + begin;
      const float half = held.halves[base + slot];
#pragma unroll
      for (int n = 0; n < tile_codes / 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int k = code_of(n, e);
          if (k < here) to[k] = static_cast<double>(half + (__ldg(starts + k) - sums[i / 2][n][i % 2 * 2 + e]));
        }
    }
  }

  // |r|^2 / 2 of the row's beams as defined, two at a time.
  DEVICE_INLINE void find_own(int row) const {
    for (int b = 0; b < beams; b += 2) {
      const int mine = b + lane_of() / 16 < beams ? b + lane_of() / 16 : b;
      const double squares = beam(row, mine).dot(nullptr);
      if (lane_of() % 16 == 0 && mine == b + lane_of() / 16) held.own[row * held.num_beams + mine] = 0.5 * squares;
    }
    __syncwarp();
  }
  // The score of a pair as defined, by half of the warp.
  DEVICE_INLINE double exact_score(int row, int pair) const {
    const int count = levels.count(level), b = pair / count;
    return held.own[row * held.num_beams + b] + beam(row, b).score(pair % count);
  }

  // The largest error of the row's beams; NaN if one is.
  DEVICE_INLINE float error_of(int row) const {
    float largest = 0.0f;
    bool wrong = false;
    for (int b = lane_of(); b < beams; b += 32) {
      const float error = held.errors[row * beams + b];
      wrong = wrong || error != error;
      largest = fmaxf(largest, error);
    }
    for (int step = 16; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, step));
    return __ballot_sync(all_lanes, wrong) != 0u ? __uint_as_float(0x7fc00000u) : largest;
  }

  // Lists at least the `keep` pairs that leave the shortest residual; their number.
  DEVICE_INLINE int shortlist(int row, int keep, float slack, int* list, double* exact) const {
    const int pairs = beams * levels.count(level), lane = lane_of();
    double* scores = held.scores + static_cast<Offset>(row) * pairs;
    find_own(row);
    if (slack < infinity()) {
      const double bar = value_of(lowest_bar(scores, pairs, keep)) + static_cast<double>(slack);
      const int number = collect(list, 0, held.capacity, pairs, [&](int i) { return scores[i] <= bar; });
      if (number <= held.capacity) {
        for (int i = 0; i < number; i += 2) {
          const int mine = i + lane / 16 < number ? i + lane / 16 : i;
          const double score = exact_score(row, list[mine]);
          if (lane % 16 == 0 && mine == i + lane / 16) exact[mine] = score;
        }
        __syncwarp();
        return number;
      }
    }
    for (int i = 0; i < pairs; i += 2) {
      const int mine = i + lane / 16 < pairs ? i + lane / 16 : i;
      const double score = exact_score(row, mine);
      if (lane % 16 == 0 && mine == i + lane / 16) scores[mine] = score;
    }
    __syncwarp();
    const double bar = value_of(lowest_bar(scores, pairs, keep));
    const int number = collect(list, 0, keep, pairs, [&](int i) { return scores[i] < bar; });
    collect(list, number, keep, pairs, [&](int i) { return scores[i] == bar; });  // lower pairs first, as many as fit
    for (int i = lane; i < keep; i += 32) exact[i] = scores[list[i]];
    __syncwarp();
    return keep;
  }

  // The row's beams for the next level, or its codes.
  DEVICE_INLINE void settle(int row, int keep) const {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = lane_of(), count = levels.count(level);
    const bool is_last = level + 1 == levels.num_levels;
    int* codes = out + (first + row) * levels.num_levels;
    const float slack = error_of(row);
    if (slack != slack) {
      for (int l = lane; l < levels.num_levels; l += 32) codes[l] = -1;
      if (lane == 0) held.alive[row] = 0;
      return;
    }
    int* list = held.listed + static_cast<Offset>(warp) * held.capacity;
    double* exact = held.exact + static_cast<Offset>(warp) * held.capacity;
    const int number = shortlist(row, keep, slack, list, exact);
    for (int i = lane; i < number; i += 32) {
      int rank = 0;
      for (int j = 0; j < number; ++j)
        rank += exact[j] < exact[i] || (exact[j] == exact[i] && list[j] < list[i]) ? 1 : 0;
      if (rank >= keep) continue;
      const int* before = codes_of(level % 2, row, list[i] / count);
      int* to = is_last ? codes : codes_of((level + 1) % 2, row, rank);
      for (int l = 0; l < level; ++l) to[l] = before[l];
      to[level] = list[i] % count;
    }
    __syncwarp();
  }
};

template <class Element>
DEVICE_INLINE void encode_beams(const Levels& levels, const typename Element::Type* x, Offset num_rows, int* out,
                                unsigned short* staged, const Beams& all) {
  DEVICE_SHARED(char, memory);
  const Tiles tiles(memory, levels.padded, staged);
  const Beams held = all.of_block(levels.num_levels);
  const int own = static_cast<int>(threadIdx.x);
  for (Offset first = static_cast<Offset>(blockIdx.x) * held.rows; first < num_rows;
       first += static_cast<Offset>(gridDim.x) * held.rows) {
    for (int row = own; row < held.rows; row += block_threads) held.alive[row] = 1;
    __syncthreads();
    int beams = 1;
    for (int level = 0; level < levels.num_levels; ++level) {
      BeamEncoder<Element> encoder{levels, x, num_rows, first, out, held, level, beams};
      const Offset pairs = static_cast<Offset>(beams) * levels.count(level);
      const int most = level + 1 == levels.num_levels ? 1 : held.num_beams;
      const int keep = static_cast<int>(smaller(pairs, most));
      for (; encoder.base < held.rows * beams; encoder.base += block_rows) {
        prepare(tiles, levels.depth, levels.padded, levels.centre(level), encoder,
                [&](int slot, const Lengths& row, float half, bool finite) { encoder.note(slot, row, half, finite); });
        multiply(tiles, levels.padded, levels.products(level), levels.count(level),
                 [&](int begin, int here, Sums& sums) { encoder.store(begin, here, sums); });
      }
      for (int row = own / 32; row < held.rows; row += block_threads / 32)
        if (encoder.is_alive(row)) encoder.settle(row, keep);
      __syncthreads();
      beams = keep;
    }
  }
}

}  // namespace rq

// Blocks of 128 threads take rows after rows, `beams.rows` at a time.
extern "C" __global__ void __launch_bounds__(128, 2)
    rq_beams_float32(rq::Levels levels, const float* x, long long num_rows, int* codes, unsigned short* staged,
                     rq::Beams beams) {
  rq::encode_beams<Float32>(levels, x, num_rows, codes, staged, beams);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    rq_beams_bfloat16(rq::Levels levels, const unsigned short* x, long long num_rows, int* codes,
                      unsigned short* staged, rq::Beams beams) {
  rq::encode_beams<Bfloat16>(levels, x, num_rows, codes, staged, beams);
}
extern "C" __global__ void __launch_bounds__(128, 2)
    rq_beams_float16(rq::Levels levels, const unsigned short* x, long long num_rows, int* codes, unsigned short* staged,
                     rq::Beams beams) {
  rq::encode_beams<Half>(levels, x, num_rows, codes, staged, beams);
}
