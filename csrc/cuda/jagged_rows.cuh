// Moving and adding up jagged rows: row r holds elements [offsets[r], offsets[r + 1]). Every kernel takes `valid`,
// which jagged_rows_check wrote before: where offsets break their rules, results are bytes of 255 (NaN, -1), and
// nothing is read through them.
#pragma once
#include "device.cuh"

namespace jagged {

using Offset = long long;

// valid[0] = offsets run from 0 to total without decreasing. One block.
DEVICE_INLINE void check_offsets(const Offset* offsets, Offset num_rows, Offset total, Offset* valid) {
  bool good = offsets[0] == 0 && offsets[num_rows] == total;
  for (Offset row = threadIdx.x; row < num_rows; row += blockDim.x) good = good && offsets[row] <= offsets[row + 1];
  const int all = __syncthreads_and(good);
  if (threadIdx.x == 0) valid[0] = all;
}

// The last row that begins at or before element e, of rows [below, above): empty rows hold none.
DEVICE_INLINE Offset row_of(const Offset* offsets, Offset below, Offset above, Offset e) {
  while (above - below > 1) {
    const Offset middle = below + (above - below) / 2;
    if (offsets[middle] <= e)
      below = middle;
    else
      above = middle;
  }
  return below;
}

// A few lanes copy an element of `units` units: 1 << shift of them, so that no thread has to divide.
struct Lanes {
  Offset element;
  int lane, count;

  DEVICE_INLINE explicit Lanes(int shift) {
    const Offset thread = static_cast<Offset>(blockIdx.x) * blockDim.x + threadIdx.x;
    element = thread >> shift;
    count = 1 << shift;
    lane = static_cast<int>(thread) & (count - 1);
  }
};

template <class Unit>
DEVICE_INLINE void copy(Unit* to, const Unit* from, const Lanes& lanes, Offset units) {
  for (Offset u = lanes.lane; u < units; u += lanes.count) to[u] = from[u];
}
template <class Unit>
DEVICE_INLINE void set_bytes(Unit* to, const Lanes& lanes, Offset units, unsigned char byte) {
  unsigned char* bytes = reinterpret_cast<unsigned char*>(to);
  const Offset count = units * static_cast<Offset>(sizeof(Unit));
  for (Offset b = lanes.lane; b < count; b += lanes.count) bytes[b] = byte;
}

// Between element i of row r of `values` and element starts[r] + i of `others` (starts null: r * row_step + i * step,
// for i below `limit`). back: to values, bytes of `beyond` where the limit ends; else to others.
template <class Unit>
DEVICE_INLINE void move_rows(const Offset* offsets, Offset num_rows, const Offset* starts, Offset row_step, Offset step,
                             Offset limit, Unit* values, Unit* others, Offset count, Offset num_others, Offset units,
                             int shift, bool back, unsigned char beyond, const Offset* valid) {
  const Lanes lanes(shift);
  // Rows of this block's first and last element, between which each finds its own.
  const Offset block = (static_cast<Offset>(blockIdx.x) * blockDim.x) >> shift;
  const Offset behind = block + (blockDim.x >> shift);
  const Offset e = lanes.element;
  if (!valid[0]) {
    if (back && e < count) set_bytes(values + e * units, lanes, units, 255);
    for (Offset o = e; !back && o < num_others; o += (static_cast<Offset>(gridDim.x) * blockDim.x) >> shift)
      set_bytes(others + o * units, lanes, units, 255);
    return;
  }
  if (e >= count) return;
  const Offset first = row_of(offsets, 0, num_rows, block);
  const Offset last = row_of(offsets, first, num_rows, (behind < count ? behind : count) - 1);
  const Offset row = row_of(offsets, first, last + 1, e), place = e - offsets[row];
  Unit* mine = values + e * units;
  if (starts || place < limit) {
    const Offset other = starts ? starts[row] + place : row * row_step + place * step;
    if (other < 0 || other >= num_others) return set_bytes(mine, lanes, back ? units : 0, 255);
    if (back)
      copy(mine, others + other * units, lanes, units);
    else
      copy(others + other * units, mine, lanes, units);
  } else if (back) {
    set_bytes(mine, lanes, units, beyond);
  }
}

// padded[r, i] = values[offsets[r] + i], or the item again and again behind the row's end.
template <class Unit>
DEVICE_INLINE void pad_rows(const Offset* offsets, const Unit* values, const unsigned char* item, int item_bytes,
                            Unit* padded, Offset count, Offset max_len, Offset units, int shift, const Offset* valid) {
  const Lanes lanes(shift);
  const Offset e = lanes.element;
  if (e >= count) return;
  Unit* to = padded + e * units;
  if (!valid[0]) return set_bytes(to, lanes, units, 255);
  const Offset row = e / max_len, place = e - row * max_len, from = offsets[row] + place;
  if (from < offsets[row + 1]) return copy(to, values + from * units, lanes, units);
  unsigned char* bytes = reinterpret_cast<unsigned char*>(to);
  const Offset size = units * static_cast<Offset>(sizeof(Unit));
  for (Offset b = lanes.lane; b < size; b += lanes.count) bytes[b] = item[b % item_bytes];
}

// out[i] = table[ids[i]]; bytes of 255 for an id outside.
template <class Unit>
DEVICE_INLINE void gather(const Unit* table, Offset table_rows, const Offset* ids, Unit* out, Offset count,
                          Offset units, int shift) {
  const Lanes lanes(shift);
  if (lanes.element >= count) return;
  const Offset id = ids[lanes.element];
  Unit* to = out + lanes.element * units;
  if (id >= 0 && id < table_rows)
    copy(to, table + id * units, lanes, units);
  else
    set_bytes(to, lanes, units, 255);
}

// out[r, c] = the sum of column c of row r's elements (order[e] is the place of element e; null: e), float32, one
// after the other as on the CPU. A thread per column; the next elements are on their way while one is added.
template <class Element>
DEVICE_INLINE void sum_rows(const typename Element::Type* values, const Offset* order, const Offset* offsets,
                            Offset num_rows, Offset width, float* out, const Offset* valid) {
  constexpr int ahead = 8;
  const Offset thread = static_cast<Offset>(blockIdx.x) * blockDim.x + threadIdx.x;
  const Offset row = thread / width, column = thread - row * width;
  if (row >= num_rows) return;
  if (!valid[0]) {
    out[thread] = __int_as_float(0x7fffffff);
    return;
  }
  float sum = 0.0f;
  Offset e = offsets[row];
  const Offset end = offsets[row + 1];
  const typename Element::Type* from = values + column;
  for (; e + ahead <= end; e += ahead) {
    float next[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i) next[i] = Element::load(from[(order ? order[e + i] : e + i) * width]);
#pragma unroll
    for (int i = 0; i < ahead; ++i) sum += next[i];
  }
  for (; e < end; ++e) sum += Element::load(from[(order ? order[e] : e) * width]);
  out[thread] = sum;
}

}  // namespace jagged

struct alignas(16) Bytes16 {
  unsigned x, y, z, w;
};

// One block.
extern "C" __global__ void jagged_rows_check(const long long* offsets, long long num_rows, long long total,
                                             long long* valid) {
  jagged::check_offsets(offsets, num_rows, total, valid);
}

// The offsets, or -1 where they break their rules.
extern "C" __global__ void jagged_rows_checked(const long long* offsets, long long count, long long* out,
                                               const long long* valid) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = valid[0] ? offsets[i] : -1;
}

// The ids, -1 for those outside [0, size).
extern "C" __global__ void jagged_rows_checked_ids(const long long* ids, long long count, long long size,
                                                   long long* out) {
  const long long i = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) out[i] = ids[i] >= 0 && ids[i] < size ? ids[i] : -1;
}

// Elements of `units` units of 16, 8, 4, 2 or 1 bytes, 1 << shift lanes each; blocks of 256 threads.
extern "C" __global__ void jagged_rows_move_16(const long long* offsets, long long num_rows, const long long* starts,
                                               long long row_step, long long step, long long limit, Bytes16* values,
                                               Bytes16* others, long long count, long long num_others, long long units,
                                               int shift, int back, int beyond, const long long* valid) {
  jagged::move_rows(offsets, num_rows, starts, row_step, step, limit, values, others, count, num_others, units, shift,
                    back != 0, static_cast<unsigned char>(beyond), valid);
}
extern "C" __global__ void jagged_rows_move_8(const long long* offsets, long long num_rows, const long long* starts,
                                              long long row_step, long long step, long long limit, long long* values,
                                              long long* others, long long count, long long num_others, long long units,
                                              int shift, int back, int beyond, const long long* valid) {
  jagged::move_rows(offsets, num_rows, starts, row_step, step, limit, values, others, count, num_others, units, shift,
                    back != 0, static_cast<unsigned char>(beyond), valid);
}
extern "C" __global__ void jagged_rows_move_4(const long long* offsets, long long num_rows, const long long* starts,
                                              long long row_step, long long step, long long limit, unsigned* values,
                                              unsigned* others, long long count, long long num_others, long long units,
                                              int shift, int back, int beyond, const long long* valid) {
  jagged::move_rows(offsets, num_rows, starts, row_step, step, limit, values, others, count, num_others, units, shift,
                    back != 0, static_cast<unsigned char>(beyond), valid);
}
extern "C" __global__ void jagged_rows_move_2(const long long* offsets, long long num_rows, const long long* starts,
                                              long long row_step, long long step, long long limit,
                                              unsigned short* values, unsigned short* others, long long count,
                                              long long num_others, long long units, int shift, int back, int beyond,
                                              const long long* valid) {
  jagged::move_rows(offsets, num_rows, starts, row_step, step, limit, values, others, count, num_others, units, shift,
                    back != 0, static_cast<unsigned char>(beyond), valid);
}
extern "C" __global__ void jagged_rows_move_1(const long long* offsets, long long num_rows, const long long* starts,
                                              long long row_step, long long step, long long limit,
                                              unsigned char* values, unsigned char* others, long long count,
                                              long long num_others, long long units, int shift, int back, int beyond,
                                              const long long* valid) {
  jagged::move_rows(offsets, num_rows, starts, row_step, step, limit, values, others, count, num_others, units, shift,
                    back != 0, static_cast<unsigned char>(beyond), valid);
}
extern "C" __global__ void jagged_rows_pad_16(const long long* offsets, const Bytes16* values,
                                              const unsigned char* item, int item_bytes, Bytes16* padded,
                                              long long count, long long max_len, long long units, int shift,
                                              const long long* valid) {
  jagged::pad_rows(offsets, values, item, item_bytes, padded, count, max_len, units, shift, valid);
}
extern "C" __global__ void jagged_rows_pad_8(const long long* offsets, const long long* values,
                                             const unsigned char* item, int item_bytes, long long* padded,
                                             long long count, long long max_len, long long units, int shift,
                                             const long long* valid) {
  jagged::pad_rows(offsets, values, item, item_bytes, padded, count, max_len, units, shift, valid);
}
extern "C" __global__ void jagged_rows_pad_4(const long long* offsets, const unsigned* values,
                                             const unsigned char* item, int item_bytes, unsigned* padded,
                                             long long count, long long max_len, long long units, int shift,
                                             const long long* valid) {
  jagged::pad_rows(offsets, values, item, item_bytes, padded, count, max_len, units, shift, valid);
}
extern "C" __global__ void jagged_rows_pad_2(const long long* offsets, const unsigned short* values,
                                             const unsigned char* item, int item_bytes, unsigned short* padded,
                                             long long count, long long max_len, long long units, int shift,
                                             const long long* valid) {
  jagged::pad_rows(offsets, values, item, item_bytes, padded, count, max_len, units, shift, valid);
}
extern "C" __global__ void jagged_rows_pad_1(const long long* offsets, const unsigned char* values,
                                             const unsigned char* item, int item_bytes, unsigned char* padded,
                                             long long count, long long max_len, long long units, int shift,
                                             const long long* valid) {
  jagged::pad_rows(offsets, values, item, item_bytes, padded, count, max_len, units, shift, valid);
}
extern "C" __global__ void jagged_rows_gather_16(const Bytes16* table, long long table_rows, const long long* ids,
                                                 Bytes16* out, long long count, long long units, int shift) {
  jagged::gather(table, table_rows, ids, out, count, units, shift);
}
extern "C" __global__ void jagged_rows_gather_8(const long long* table, long long table_rows, const long long* ids,
                                                long long* out, long long count, long long units, int shift) {
  jagged::gather(table, table_rows, ids, out, count, units, shift);
}
extern "C" __global__ void jagged_rows_gather_4(const unsigned* table, long long table_rows, const long long* ids,
                                                unsigned* out, long long count, long long units, int shift) {
  jagged::gather(table, table_rows, ids, out, count, units, shift);
}
extern "C" __global__ void jagged_rows_gather_2(const unsigned short* table, long long table_rows, const long long* ids,
                                                unsigned short* out, long long count, long long units, int shift) {
  jagged::gather(table, table_rows, ids, out, count, units, shift);
}
extern "C" __global__ void jagged_rows_gather_1(const unsigned char* table, long long table_rows, const long long* ids,
                                                unsigned char* out, long long count, long long units, int shift) {
  jagged::gather(table, table_rows, ids, out, count, units, shift);
}

// A thread for every row and column, blocks of 256.
extern "C" __global__ void jagged_rows_sum_float32(const float* values, const long long* order,
                                                   const long long* offsets, long long num_rows, long long width,
                                                   float* out, const long long* valid) {
  jagged::sum_rows<Float32>(values, order, offsets, num_rows, width, out, valid);
}
extern "C" __global__ void jagged_rows_sum_bfloat16(const unsigned short* values, const long long* order,
                                                    const long long* offsets, long long num_rows, long long width,
                                                    float* out, const long long* valid) {
  jagged::sum_rows<Bfloat16>(values, order, offsets, num_rows, width, out, valid);
}
extern "C" __global__ void jagged_rows_sum_float16(const unsigned short* values, const long long* order,
                                                   const long long* offsets, long long num_rows, long long width,
                                                   float* out, const long long* valid) {
  jagged::sum_rows<Half>(values, order, offsets, num_rows, width, out, valid);
}
