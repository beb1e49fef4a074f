// Heads of queries or keys turned by their positions, behind a norm of each head where one is asked for; as
// ops/reference/rotary.py defines it. A warp a head of a row: lane l holds channels l, l + 32, ... of both halves that
// are turned, and of what stands behind them.
#include "device.cuh"

namespace rotary {

struct Args {              // python/genrec_fast/ops/rotary.py writes the same
  const void *x, *weight;  // weight may be null
  long long row_stride, head_stride, rows, places;
  int heads, width, turned;
  float epsilon;
};

// Channels first + lane + 32 j below `end` of a head, as floats; 0 behind.
template <class Element, int N>
DEVICE_INLINE void load(float (&to)[N], const void* head, int first, int end, int lane) {
  const typename Element::Type* const from = static_cast<const typename Element::Type*>(head);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const int channel = first + lane + 32 * j;
    to[j] = channel < end ? Element::load(from[channel]) : 0.0f;
  }
}

template <class Element, int N>
DEVICE_INLINE void store(typename Element::Type* to, const float (&from)[N], int first, int end, int lane) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const int channel = first + lane + 32 * j;
    if (channel < end) to[channel] = Element::store(from[j]);
  }
}

template <int N>
DEVICE_INLINE float squares(const float (&x)[N], float sum) {
#pragma unroll
  for (int j = 0; j < N; ++j) sum = fmaf(x[j], x[j], sum);
  return sum;
}

template <class Element, int N>
DEVICE_INLINE void scale(float (&x)[N], const void* weights, float factor, int first, int end, int lane) {
  float weight[N];
  load<Element>(weight, weights, first, end, lane);
#pragma unroll
  for (int j = 0; j < N; ++j) x[j] *= factor * weight[j];
}

template <class Element>
DEVICE_INLINE void run(const Args& args, const long long* positions, const float* table, typename Element::Type* out) {
  using T = typename Element::Type;
  constexpr int most = 256 / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const long long unit = static_cast<long long>(blockIdx.x) * 4 + threadIdx.x / 32;
  if (unit >= args.rows * args.heads) return;
  const long long row = unit / args.heads, head = unit % args.heads;
  const int half = args.turned / 2;
  const T* const from = static_cast<const T*>(args.x) + row * args.row_stride + head * args.head_stride;
  T* const to = out + unit * args.width;
  float left[most / 2], right[most / 2], rest[most];
  load<Element>(left, from, 0, half, lane);
  load<Element>(right, from, half, args.turned, lane);
  load<Element>(rest, from, args.turned, args.width, lane);
  if (args.weight) {
    float sum = squares(rest, squares(right, squares(left, 0.0f)));
    for (int apart = 16; apart; apart /= 2) sum += __shfl_xor_sync(all_lanes, sum, apart);
    const float factor = 1.0f / sqrtf(fmaf(sum, 1.0f / static_cast<float>(args.width), args.epsilon));
    scale<Element>(left, args.weight, factor, 0, half, lane);
    scale<Element>(right, args.weight, factor, half, args.turned, lane);
    scale<Element>(rest, args.weight, factor, args.turned, args.width, lane);
  }
  const long long position = positions[row];
  const bool known = position >= 0 && position < args.places;
  const float* const turns = table + (known ? position : 0) * args.turned;
#pragma unroll
  for (int j = 0; j < most / 2; ++j) {
    const int channel = lane + 32 * j;
    if (channel >= half) continue;
    const float cosine = known ? turns[channel] : not_a_number(), sine = known ? turns[half + channel] : not_a_number();
    const float a = left[j], b = right[j];
    left[j] = a * cosine - b * sine;
    right[j] = b * cosine + a * sine;
  }
#pragma unroll
  for (int j = 0; j < most; ++j)
    if (!known) rest[j] = not_a_number();
  store<Element>(to, left, 0, half, lane);
  store<Element>(to, right, half, args.turned, lane);
  store<Element>(to, rest, args.turned, args.width, lane);
}

}  // namespace rotary

// Blocks of 128 threads: a warp a head of a row. table: [places, turned], cosines, then sines.
extern "C" __global__ void __launch_bounds__(128)
    rotary_bfloat16(rotary::Args args, const long long* positions, const float* table, unsigned short* out) {
  rotary::run<Bfloat16>(args, positions, table, out);
}
extern "C" __global__ void __launch_bounds__(128)
    rotary_float16(rotary::Args args, const long long* positions, const float* table, unsigned short* out) {
  rotary::run<Half>(args, positions, table, out);
}
extern "C" __global__ void __launch_bounds__(128)
    rotary_float32(rotary::Args args, const long long* positions, const float* table, float* out) {
  rotary::run<Float32>(args, positions, table, out);
}
