// Sixteen rows of sixteen 32-bit words, turned. Included by per-ISA files alone.
#pragma once
#include <cstdint>

#include "core/vec.h"

namespace genrec::GENREC_ISA {

#if GENREC_VEC == 1
static inline void transpose_8(const float* rows, std::int64_t stride, int count, float* out, std::int64_t out_stride) {
  __m256 x[8], t[8];
  for (int r = 0; r < 8; ++r) x[r] = r < count ? _mm256_loadu_ps(rows + r * stride) : _mm256_setzero_ps();
  for (int i = 0; i < 8; i += 4) {
    const __m256 a = _mm256_unpacklo_ps(x[i], x[i + 1]), b = _mm256_unpackhi_ps(x[i], x[i + 1]);
    const __m256 c = _mm256_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(out + c * out_stride, _mm256_permute2f128_ps(t[c], t[c + 4], 0x20));
    _mm256_storeu_ps(out + (c + 4) * out_stride, _mm256_permute2f128_ps(t[c], t[c + 4], 0x31));
  }
}
#endif

// out[c * out_stride + r] = rows[r * stride + c] for r, c < 16; rows at and behind `count` read as 0.
static inline void transpose(const float* rows, std::int64_t stride, int count, float* out, std::int64_t out_stride) {
  if (count <= 0) {
    for (int c = 0; c < 16; ++c) store(out + c * out_stride, fill(0.0f));
    return;
  }
#if GENREC_VEC == 2
  __m512 x[16], t[16];
  for (int r = 0; r < 16; ++r) x[r] = r < count ? _mm512_loadu_ps(rows + r * stride) : _mm512_setzero_ps();
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(x[i], x[i + 1]), b = _mm512_unpackhi_ps(x[i], x[i + 1]);
    const __m512 c = _mm512_unpacklo_ps(x[i + 2], x[i + 3]), d = _mm512_unpackhi_ps(x[i + 2], x[i + 3]);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
  // Each quarter L of t[4 i + c] holds column 4 L + c of rows 4 i to 4 i + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512 even = _mm512_shuffle_f32x4(t[c], t[4 + c], 0x88), odd = _mm512_shuffle_f32x4(t[c], t[4 + c], 0xdd);
    const __m512 even_2 = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0x88);
    const __m512 odd_2 = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0xdd);
    _mm512_storeu_ps(out + c * out_stride, _mm512_shuffle_f32x4(even, even_2, 0x88));
    _mm512_storeu_ps(out + (4 + c) * out_stride, _mm512_shuffle_f32x4(odd, odd_2, 0x88));
    _mm512_storeu_ps(out + (8 + c) * out_stride, _mm512_shuffle_f32x4(even, even_2, 0xdd));
    _mm512_storeu_ps(out + (12 + c) * out_stride, _mm512_shuffle_f32x4(odd, odd_2, 0xdd));
  }
#elif GENREC_VEC == 1
  for (int r = 0; r < 16; r += 8)
    for (int c = 0; c < 16; c += 8)
      transpose_8(rows + r * stride + c, stride, count - r, out + c * out_stride + r, out_stride);
#else
  for (int c = 0; c < 16; ++c)
    for (int r = 0; r < 16; ++r) out[c * out_stride + r] = r < count ? rows[r * stride + c] : 0.0f;
#endif
}

}  // namespace genrec::GENREC_ISA
