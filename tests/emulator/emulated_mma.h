// The names of mma.cuh for the emulator: the same elements in the same lanes; a copy that the kernel does not wait for
// arrives only when the kernel waits.
#pragma once
#include "device.cuh"

namespace emulator {

inline float element(unsigned word, int part, bool is_half) {
  const auto bits = static_cast<unsigned short>(part ? word >> 16 : word & 0xffffu);
  return is_half ? half_to_float(bits) : bfloat16_to_float(bits);
}

inline void multiply(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], bool is_half) {
  const int lane = static_cast<int>(current->lane);
  std::memcpy(slot(current->lane).a, a, sizeof a);
  std::memcpy(slot(current->lane).b, b, sizeof b);
  warp_barrier(whole_warp);
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    float sum = c[e];
    for (int k = 0; k < 16; ++k) {
      const unsigned left = slot(static_cast<unsigned>(row % 8 * 4 + k % 8 / 2)).a[row / 8 + k / 8 * 2];
      const unsigned right = slot(static_cast<unsigned>(column * 4 + k % 8 / 2)).b[k / 8];
      sum += element(left, k % 2, is_half) * element(right, k % 2, is_half);
    }
    c[e] = sum;
  }
  warp_barrier(whole_warp);
}

inline void load_matrices(unsigned (&r)[4], const void* row, bool transposed) {
  const int lane = static_cast<int>(current->lane);
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) fail("ldmatrix: a row is not aligned to 16");
  slot(current->lane).address = row;
  warp_barrier(whole_warp);
  for (int m = 0; m < 4; ++m) {
    r[m] = 0;
    for (int part = 0; part < 2; ++part) {
      int i = lane / 4, j = lane % 4 * 2 + part;
      if (transposed) std::swap(i, j);
      unsigned short value;
      const auto* const from = static_cast<const char*>(slot(static_cast<unsigned>(8 * m + i)).address);
      std::memcpy(&value, from + 2 * j, sizeof value);
      r[m] |= static_cast<unsigned>(value) << 16 * part;
    }
  }
  warp_barrier(whole_warp);
}

// Copies that were asked for and have not arrived, by thread.
struct Copy {
  void* to;
  const void* from;
  int group;
};
struct Copies {
  std::uint64_t launch = 0;
  dim3 index;
  std::vector<Copy> waiting;
  int groups = 0;
};
inline Copies& copies() {
#ifdef EMULATOR_THREADS
  static thread_local Copies own;
#else
  static std::vector<Copies> all(most_threads);
  Copies& own = all[static_cast<std::size_t>(current - block->threads.data())];
#endif
  const bool same = own.launch == launches && own.index.x == block->index.x && own.index.y == block->index.y &&
                    own.index.z == block->index.z;
  if (!same) own = {launches, block->index, {}, 0};
  return own;
}

}  // namespace emulator

inline void mma_bfloat16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::multiply(c, a, b, false);
}
inline void mma_half(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  emulator::multiply(c, a, b, true);
}
inline void ldmatrix_x4(unsigned (&r)[4], const void* row) { emulator::load_matrices(r, row, false); }
inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) { emulator::load_matrices(r, row, true); }

inline void cp_async16(void* shared, const void* global) {
  if ((reinterpret_cast<std::uintptr_t>(shared) | reinterpret_cast<std::uintptr_t>(global)) % 16 != 0)
    emulator::fail("cp_async16: an address is not aligned to 16");
  emulator::Copies& own = emulator::copies();
  own.waiting.push_back({shared, global, own.groups});
}
inline void copies_commit() { ++emulator::copies().groups; }
template <int pending>
void copies_wait() {
  emulator::Copies& own = emulator::copies();
  const auto left = std::partition(own.waiting.begin(), own.waiting.end(),
                                   [&](const emulator::Copy& copy) { return copy.group >= own.groups - pending; });
  for (auto copy = left; copy != own.waiting.end(); ++copy) std::memcpy(copy->to, copy->from, 16);
  own.waiting.erase(left, own.waiting.end());
}

inline unsigned pack_bfloat16(float low, float high) {
  return float_to_bfloat16(low) | static_cast<unsigned>(float_to_bfloat16(high)) << 16;
}
inline unsigned pack_half(float low, float high) {
  return float_to_half(low) | static_cast<unsigned>(float_to_half(high)) << 16;
}
inline float rough_tanh(float x) { return std::tanh(x); }
