// Products of small matrices on tensor cores, and copies that run by themselves: on the card inline PTX (sm_80 and
// later), in the tests `emulated_mma.h`, which keeps the layout of elements over lanes.
//
// mma_*: c[16, 8] += a[16, 16] b[16, 8], sums in float32. Lane l holds, two 16-bit elements a word, lower index first:
//   a[0]: row l / 4, columns 2 (l % 4) + {0, 1}; a[1]: row + 8; a[2]: columns + 8; a[3]: both
//   b[0]: rows 2 (l % 4) + {0, 1}, column l / 4; b[1]: rows + 8
//   c[0], c[1]: row l / 4, columns 2 (l % 4) + {0, 1}; c[2], c[3]: row + 8
#pragma once
#include "device.cuh"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)

DEVICE_INLINE void mma_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE_INLINE void mma_half(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE_INLINE unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
// Matrices of 8 x 8 elements of 16 bits; lanes 8 m to 8 m + 7 name the rows of matrix m, 16 bytes each, in shared
// memory. r[m]: as b[0] above of matrix m's transpose, with _trans of the matrix itself.
DEVICE_INLINE void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE_INLINE void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes, both sides aligned to 16; there once copies_wait and a barrier have passed.
DEVICE_INLINE void cp_async16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
DEVICE_INLINE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
DEVICE_INLINE void copies_wait() {  // until at most `pending` groups are on their way
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Two floats to the nearest bfloat16, ties to even, the first in the lower half.
DEVICE_INLINE unsigned pack_bfloat16(float low, float high) {
  unsigned out;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
// As float16.
DEVICE_INLINE unsigned pack_half(float low, float high) {
  unsigned out;
  asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
// Of 11 bits.
DEVICE_INLINE float rough_tanh(float x) {
  float out;
  asm("tanh.approx.f32 %0,%1;" : "=f"(out) : "f"(x));
  return out;
}

#else
#include "emulated_mma.h"
#endif
