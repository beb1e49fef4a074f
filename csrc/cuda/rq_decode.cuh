// Codes -> vectors: the sum of one codebook row per level, float32, in the order of the levels. A thread takes four
// neighbouring columns of a row (or one, where rows are not aligned to 16 bytes); a row with a code outside its
// codebook becomes NaN.
#include "device.cuh"

struct Codebooks {  // python/genrec_fast/ops/rq_decode.py writes the same
  const float* rows[8];
  long long count[8];
  int num_levels;
};

template <class Code, int columns>
DEVICE_INLINE void rq_decode(const Codebooks& books, const Code* codes, long long stride, long long num_rows,
                             long long depth, int goes_on, float* out) {
  const long long parts = depth / columns;  // of a row
  const long long part = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (part >= num_rows * parts) return;
  const long long row = part / parts, first = part % parts * columns;
  float* const to = out + row * depth + first;
  float total[columns];
  for (int c = 0; c < columns; ++c) total[c] = goes_on ? to[c] : 0.0f;
  for (int l = 0; l < books.num_levels; ++l) {
    const long long code = static_cast<long long>(codes[row * stride + l]);
    if (code < 0 || code >= books.count[l]) {
      for (int c = 0; c < columns; ++c) total[c] = __uint_as_float(0x7fc00000u);
      break;
    }
    const float* const from = books.rows[l] + code * depth + first;
    if constexpr (columns == 4) {
      const float4 x = __ldg(reinterpret_cast<const float4*>(from));
      total[0] += x.x;
      total[1] += x.y;
      total[2] += x.z;
      total[3] += x.w;
    } else {
      total[0] += __ldg(from);
    }
  }
  for (int c = 0; c < columns; ++c) to[c] = total[c];
}

extern "C" __global__ void rq_decode_int32_four(Codebooks books, const int* codes, long long stride, long long rows,
                                                long long depth, int goes_on, float* out) {
  rq_decode<int, 4>(books, codes, stride, rows, depth, goes_on, out);
}
extern "C" __global__ void rq_decode_int32_one(Codebooks books, const int* codes, long long stride, long long rows,
                                               long long depth, int goes_on, float* out) {
  rq_decode<int, 1>(books, codes, stride, rows, depth, goes_on, out);
}
extern "C" __global__ void rq_decode_int64_four(Codebooks books, const long long* codes, long long stride,
                                                long long rows, long long depth, int goes_on, float* out) {
  rq_decode<long long, 4>(books, codes, stride, rows, depth, goes_on, out);
}
extern "C" __global__ void rq_decode_int64_one(Codebooks books, const long long* codes, long long stride,
                                               long long rows, long long depth, int goes_on, float* out) {
  rq_decode<long long, 1>(books, codes, stride, rows, depth, goes_on, out);
}
