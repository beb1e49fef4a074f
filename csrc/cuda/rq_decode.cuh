// Codes -> vectors: the sum of one codebook row per level, float32, in the order of the levels. A thread takes four
// neighbouring columns of a row (or one, where rows are not aligned to 16 bytes); a row with a code outside its
// codebook becomes NaN.
#include "device.cuh"

struct Codebooks {  // python/genrec_fast/ops/rq_decode.py writes the same
  const float* rows[8];
  long long count[8];
  int num_levels;
};

DEVICE_INLINE float plus(float a, float b) { return a + b; }
DEVICE_INLINE float4 plus(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
DEVICE_INLINE void fill(float& x, float value) { x = value; }
DEVICE_INLINE void fill(float4& x, float value) { x = {value, value, value, value}; }

// Columns is float or float4: what a thread reads, adds and writes at once.
template <class Code, class Columns>
DEVICE_INLINE void rq_decode(const Codebooks& books, const Code* codes, long long stride, long long num_rows,
                             long long depth, int goes_on, float* out) {
  const long long parts = depth * sizeof(float) / sizeof(Columns);  // of a row
  const long long part = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (part >= num_rows * parts) return;
  const long long row = part / parts, column = part % parts;
  Columns* const to = reinterpret_cast<Columns*>(out) + part;
  Columns total;
  fill(total, 0.0f);
  if (goes_on) total = *to;
  for (int l = 0; l < books.num_levels; ++l) {
    const long long code = static_cast<long long>(codes[row * stride + l]);
    if (code < 0 || code >= books.count[l]) {
      fill(total, __uint_as_float(0x7fc00000u));
      break;
    }
    total = plus(total, __ldg(reinterpret_cast<const Columns*>(books.rows[l] + code * depth) + column));
  }
  *to = total;
}

extern "C" __global__ void rq_decode_int32_four(Codebooks books, const int* codes, long long stride, long long rows,
                                                long long depth, int goes_on, float* out) {
  rq_decode<int, float4>(books, codes, stride, rows, depth, goes_on, out);
}
extern "C" __global__ void rq_decode_int32_one(Codebooks books, const int* codes, long long stride, long long rows,
                                               long long depth, int goes_on, float* out) {
  rq_decode<int, float>(books, codes, stride, rows, depth, goes_on, out);
}
extern "C" __global__ void rq_decode_int64_four(Codebooks books, const long long* codes, long long stride,
                                                long long rows, long long depth, int goes_on, float* out) {
  rq_decode<long long, float4>(books, codes, stride, rows, depth, goes_on, out);
}
extern "C" __global__ void rq_decode_int64_one(Codebooks books, const long long* codes, long long stride,
                                               long long rows, long long depth, int goes_on, float* out) {
  rq_decode<long long, float>(books, codes, stride, rows, depth, goes_on, out);
}
