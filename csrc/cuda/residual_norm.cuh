// The residual stream between two products, as ops/reference/residual_norm.py defines it: a branch is added to it, and
// the sum's norm is what the next product reads. A row is read once and stays in registers, 32 elements a thread: a
// warp a row up to 1024 columns, four rows a block; above that a block a row.
#include "device.cuh"

namespace residual_norm {

constexpr int own = 32;  // elements of a thread

struct Args {                             // python/genrec_fast/ops/residual_norm.py writes the same
  const void *x, *added, *weight, *bias;  // added and bias may be null
  long long rows;
  int width, centred, whole_vectors;  // rows are made of 16 bytes, aligned
  float epsilon;
};

template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T of[size];
};

// `size` neighbouring elements of a row from `column` on, as floats; 0 behind the row's end.
template <class Element>
DEVICE_INLINE void load(float* to, const void* row, int column, int width, bool whole) {
  using T = typename Element::Type;
  constexpr int size = Pack<T>::size;
  const T* const from = static_cast<const T*>(row) + column;
  if (whole && column < width) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from);
#pragma unroll
    for (int e = 0; e < size; ++e) to[e] = Element::load(pack.of[e]);
    return;
  }
#pragma unroll
  for (int e = 0; e < size; ++e) to[e] = column + e < width ? Element::load(from[e]) : 0.0f;
}

template <class Element>
DEVICE_INLINE void store(typename Element::Type* row, const float* from, int column, int width, bool whole) {
  using T = typename Element::Type;
  constexpr int size = Pack<T>::size;
  T* const to = row + column;
  if (whole && column < width) {
    Pack<T> pack;
#pragma unroll
    for (int e = 0; e < size; ++e) pack.of[e] = Element::store(from[e]);
    *reinterpret_cast<Pack<T>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int e = 0; e < size; ++e)
    if (column + e < width) to[e] = Element::store(from[e]);
}

// Over the threads of a row, in an order that only their number sets. `parts`: a float a warp, a block's rows only.
template <bool Block>
DEVICE_INLINE float sum_of_threads(float x, float* parts) {
  for (int apart = 16; apart; apart /= 2) x += __shfl_xor_sync(all_lanes, x, apart);
  if (!Block) return x;
  const int warps = static_cast<int>(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < warps; ++warp) sum += parts[warp];
  __syncthreads();
  return sum;
}

template <class Element, bool Block>
DEVICE_INLINE void run(const Args& args, typename Element::Type* out, typename Element::Type* total) {
  using T = typename Element::Type;
  constexpr int size = Pack<T>::size, packs = own / size;
  DEVICE_SHARED(float, parts);
  const int threads = Block ? static_cast<int>(blockDim.x) : 32, thread = static_cast<int>(threadIdx.x) % threads;
  const long long row = static_cast<long long>(blockIdx.x) * (blockDim.x / threads) + threadIdx.x / threads;
  if (row >= args.rows) return;
  const bool whole = args.whole_vectors != 0;
  const long long begin = row * args.width;
  float x[own];
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    const int column = (p * threads + thread) * size;
    load<Element>(x + p * size, static_cast<const T*>(args.x) + begin, column, args.width, whole);
    if (!args.added) continue;
    float more[size];
    load<Element>(more, static_cast<const T*>(args.added) + begin, column, args.width, whole);
#pragma unroll
    for (int e = 0; e < size; ++e) x[p * size + e] = Element::load(Element::store(x[p * size + e] + more[e]));
    store<Element>(total + begin, x + p * size, column, args.width, whole);
  }
  const float share = 1.0f / static_cast<float>(args.width);
  if (args.centred) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < own; ++i) sum += x[i];
    const float mean = sum_of_threads<Block>(sum, parts) * share;
#pragma unroll
    for (int i = 0; i < own; ++i)
      x[i] = (i / size * threads + thread) * size + i % size < args.width ? x[i] - mean : 0.0f;
  }
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < own; ++i) squares = fmaf(x[i], x[i], squares);
  const float factor = 1.0f / sqrtf(fmaf(sum_of_threads<Block>(squares, parts), share, args.epsilon));
#pragma unroll
  for (int p = 0; p < packs; ++p) {
    const int column = (p * threads + thread) * size;
    float weight[size], bias[size] = {};
    load<Element>(weight, args.weight, column, args.width, whole);
    if (args.bias) load<Element>(bias, args.bias, column, args.width, whole);
#pragma unroll
    for (int e = 0; e < size; ++e) x[p * size + e] = fmaf(x[p * size + e] * factor, weight[e], bias[e]);
    store<Element>(out + begin, x + p * size, column, args.width, whole);
  }
}

}  // namespace residual_norm

// Blocks of 128 threads for four rows of at most 1024 columns. total: null where nothing is added.
extern "C" __global__ void __launch_bounds__(128)
    residual_norm_warp_bfloat16(residual_norm::Args args, unsigned short* out, unsigned short* total) {
  residual_norm::run<Bfloat16, false>(args, out, total);
}
extern "C" __global__ void __launch_bounds__(128)
    residual_norm_warp_float16(residual_norm::Args args, unsigned short* out, unsigned short* total) {
  residual_norm::run<Half, false>(args, out, total);
}
extern "C" __global__ void __launch_bounds__(128)
    residual_norm_warp_float32(residual_norm::Args args, float* out, float* total) {
  residual_norm::run<Float32, false>(args, out, total);
}

// A block a row, of a thread for every 32 columns or part of them (whole warps), and a float of shared memory a warp.
extern "C" __global__ void __launch_bounds__(512)
    residual_norm_block_bfloat16(residual_norm::Args args, unsigned short* out, unsigned short* total) {
  residual_norm::run<Bfloat16, true>(args, out, total);
}
extern "C" __global__ void __launch_bounds__(512)
    residual_norm_block_float16(residual_norm::Args args, unsigned short* out, unsigned short* total) {
  residual_norm::run<Half, true>(args, out, total);
}
extern "C" __global__ void __launch_bounds__(512)
    residual_norm_block_float32(residual_norm::Args args, float* out, float* total) {
  residual_norm::run<Float32, true>(args, out, total);
}
