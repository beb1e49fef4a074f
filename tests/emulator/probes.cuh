// Small kernels that show what the emulator shows, and what it finds.
#include "mma.cuh"

extern "C" __global__ void probe_sum(const float* x, int n, float* out) {
  __shared__ float parts[32];
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) sum += x[i];
  for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(all_lanes, sum, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned w = 1; w < blockDim.x / 32; ++w) sum += parts[w];
  out[blockIdx.x] = sum;
}

// Without the barrier that the sum above has.
extern "C" __global__ void probe_race(const float* x, float* out) {
  __shared__ float parts[64];
  parts[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = parts[63 - threadIdx.x];
}

extern "C" __global__ void probe_divergence(float* out) {
  if (threadIdx.x < 16)
    __syncwarp();
  else
    __syncthreads();
  out[0] = 1.0f;
}

extern "C" __global__ void probe_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20); }

extern "C" __global__ void probe_poison(float* fixed, float* dynamic) {
  __shared__ float here[32];
  DEVICE_SHARED(float, there);
  fixed[threadIdx.x] = here[threadIdx.x];
  dynamic[threadIdx.x] = there[threadIdx.x];
}

extern "C" __global__ void probe_votes(const int* x, unsigned* ballot, int* all, int* any) {
  const int own = x[threadIdx.x];
  ballot[threadIdx.x] = __ballot_sync(all_lanes, own > 0);
  all[threadIdx.x] = __syncthreads_and(own > -3) + 2 * __syncthreads_and(own > -2);
  any[threadIdx.x] = __syncthreads_or(own > 2) + 2 * __syncthreads_or(own > 1);
}

extern "C" __global__ void probe_histogram(const int* x, int n, int* counts) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) atomicAdd(counts + x[i], 1);
}

// The first of the threads with a number takes its slot; the others see who has it.
extern "C" __global__ void probe_slots(const int* x, int n, int* slots, int* others) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) others[i] = atomicCAS(slots + x[i] % 7, -1, x[i]);
}

// out[16, 16] = a[16, 16] b[16, 16], all by rows in memory.
template <class Element>
DEVICE_INLINE void product(const unsigned short* a, const unsigned short* b, float* out) {
  __shared__ __align__(16) unsigned short left[16 * 16], right[16 * 16];
  const int lane = static_cast<int>(threadIdx.x);
  cp_async16(left + 8 * lane, a + 8 * lane);
  cp_async16(right + 8 * lane, b + 8 * lane);
  copies_commit();
  copies_wait<0>();
  __syncwarp();
  unsigned x[4], y[4];
  ldmatrix_x4(x, left + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x4_trans(y, right + lane % 16 * 16 + lane / 16 * 8);
  for (int half = 0; half < 2; ++half) {
    float c[4] = {};
    const unsigned part[2] = {y[2 * half], y[2 * half + 1]};
    Element::multiply(c, x, part);
    for (int e = 0; e < 4; ++e) out[(lane / 4 + e / 2 * 8) * 16 + half * 8 + lane % 4 * 2 + e % 2] = c[e];
  }
}
struct InBfloat16 {
  static DEVICE_INLINE void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_bfloat16(c, a, b);
  }
};
struct InHalf {
  static DEVICE_INLINE void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_half(c, a, b);
  }
};
extern "C" __global__ void probe_product_bfloat16(const unsigned short* a, const unsigned short* b, float* out) {
  product<InBfloat16>(a, b, out);
}
extern "C" __global__ void probe_product_half(const unsigned short* a, const unsigned short* b, float* out) {
  product<InHalf>(a, b, out);
}

// What is read before it is waited for is poison.
extern "C" __global__ void probe_early(const float* x, float* early, float* late) {
  DEVICE_SHARED(float, copy);
  cp_async16(copy + 4 * threadIdx.x, x + 4 * threadIdx.x);
  copies_commit();
  early[threadIdx.x] = copy[4 * threadIdx.x];
  copies_wait<0>();
  late[threadIdx.x] = copy[4 * threadIdx.x];
}

extern "C" __global__ void probe_halves(const float* x, int n, unsigned short* half, unsigned short* bfloat16) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    half[i] = float_to_half(x[i]);
    bfloat16[i] = float_to_bfloat16(x[i]);
  }
}
extern "C" __global__ void probe_floats(const unsigned short* x, int n, float* half, float* bfloat16) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    half[i] = half_to_float(x[i]);
    bfloat16[i] = bfloat16_to_float(x[i]);
  }
}
