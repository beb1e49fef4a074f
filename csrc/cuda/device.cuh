// The few names that three compilers need: nvcc, NVRTC, and g++ for the tests' emulator.
//
// NVRTC has no standard library: kernels use built-in types alone, and halves are 16-bit words. Nothing is fused behind
// our back (--fmad=false): who wants a fused multiply-add writes fmaf.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define DEVICE_INLINE __device__ __forceinline__
// The block's dynamic shared memory, aligned to 128 bytes.
#define DEVICE_SHARED(T, name)                            \
  extern __shared__ __align__(128) char device_shared_[]; \
  T* name = reinterpret_cast<T*>(device_shared_)
#else
#include "emulator.h"
#define DEVICE_INLINE inline
#define DEVICE_SHARED(T, name) T* name = reinterpret_cast<T*>(::emulator::dynamic_shared())
#endif

constexpr unsigned all_lanes = 0xffffffffu;

DEVICE_INLINE float negative_infinity() { return __uint_as_float(0xff800000u); }
DEVICE_INLINE float not_a_number() { return __uint_as_float(0x7fc00000u); }

DEVICE_INLINE float bfloat16_to_float(unsigned short x) { return __uint_as_float(static_cast<unsigned>(x) << 16); }

// To the nearest, ties to even.
DEVICE_INLINE unsigned short float_to_bfloat16(float x) {
  const unsigned bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

DEVICE_INLINE float half_to_float(unsigned short x) {
  const unsigned sign = (x & 0x8000u) << 16, exponent = x >> 10 & 0x1fu, fraction = x & 0x3ffu;
  if (exponent == 31u) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0u) return __uint_as_float(sign | (exponent + 112u) << 23 | fraction << 13);
  const float small = static_cast<float>(fraction) * (1.0f / 16777216.0f);
  return sign ? -small : small;
}

// To the nearest, ties to even.
DEVICE_INLINE unsigned short float_to_half(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7fff;
  if (size >= 0x47800000u) return static_cast<unsigned short>(sign | 0x7c00u);
  if (size < 0x38800000u) {  // below 2^-14: the addition rounds to a multiple of 2^-24
    const unsigned rounded = __float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f);
    return static_cast<unsigned short>(sign | rounded);
  }
  const unsigned rounded = size + 0xfffu + (size >> 13 & 1u) - 0x38000000u;
  return static_cast<unsigned short>(sign | rounded >> 13);
}

// The element types of a kernel: how one is read and written.
struct Float32 {
  using Type = float;
  static DEVICE_INLINE float load(float x) { return x; }
  static DEVICE_INLINE float store(float x) { return x; }
};
struct Bfloat16 {
  using Type = unsigned short;
  static DEVICE_INLINE float load(unsigned short x) { return bfloat16_to_float(x); }
  static DEVICE_INLINE unsigned short store(float x) { return float_to_bfloat16(x); }
};
struct Half {
  using Type = unsigned short;
  static DEVICE_INLINE float load(unsigned short x) { return half_to_float(x); }
  static DEVICE_INLINE unsigned short store(float x) { return float_to_half(x); }
};
