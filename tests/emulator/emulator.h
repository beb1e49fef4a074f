// A stand-in for the part of CUDA that our kernels use: g++ compiles the same .cuh, and a grid runs on the CPU.
//
// A block's threads are fibers, blocks run one after another. Shared memory is poisoned before each block (floats read
// NaN, ints -1), a barrier or shuffle that some threads never reach is an error, and `seed` shuffles the order in which
// threads run. With -DEMULATOR_THREADS (and -fsanitize=thread) every thread is a std::thread, and a missing barrier is
// a race that is reported. Not shown: speed, occupancy, bank conflicts, the weakness of memory order between blocks.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __constant__ static
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("emulated_shared")))

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

extern "C" char __start_emulated_shared[] __attribute__((weak));
extern "C" char __stop_emulated_shared[] __attribute__((weak));

namespace emulator {

[[noreturn]] inline void fail(const std::string& text) { throw std::runtime_error("emulator: " + text); }

constexpr std::size_t stack_bytes = 128 << 10, most_threads = 1024, most_shared = 227 << 10;
constexpr unsigned whole_warp = 0xffffffffu;

// Who waits for whom: a warp or a block; in threads, each has a lock of its own, or races would hide behind it.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
};

struct Warp {
  struct Slot {  // what a lane shows the others
    std::uint64_t value;
    unsigned a[4], b[2];
    const void* address;
  } slots[32];
  unsigned arrived = 0, generation[32]{};
  std::unique_ptr<Gate> gate = std::make_unique<Gate>();
};

struct Thread {
  dim3 index;
  unsigned lane = 0, warp = 0;
  bool done = false;
  void* stack = nullptr;  // where its fiber goes on
  std::exception_ptr error;
};

struct Block {
  dim3 grid, size, index;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<char> dynamic;
  unsigned live = 0, arrived = 0, generation = 0;
  int any = 0, all = 1;              // of the votes so far
  int known_any = 0, known_all = 0;  // of the last barrier
  std::uint64_t progress = 0;
  Gate gate;
};

inline Block* block = nullptr;
inline std::uint64_t launches = 0;
inline unsigned seed = 0;

#ifdef EMULATOR_THREADS

inline thread_local Thread* current = nullptr;
struct Lock {
  explicit Lock(Gate& gate) : gate(gate), held(gate.mutex) {}
  template <class F>
  void wait(F&& ready) {
    gate.changed.wait(held, ready);
  }
  void wake() { gate.changed.notify_all(); }
  Gate& gate;
  std::unique_lock<std::mutex> held;
};

#else

inline Thread* current = nullptr;
inline void* scheduler = nullptr;
inline std::function<void()>* body = nullptr;
extern "C" void emulator_switch(void** save, void* to);
#if !defined(__x86_64__)
#error "fibers are switched in x86-64 assembly; build with -DEMULATOR_THREADS"
#endif
__asm__(
    ".text\n.weak emulator_switch\n.type emulator_switch,@function\nemulator_switch:\n"
    " pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
    " movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
    " popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n"
    ".size emulator_switch,.-emulator_switch\n");

inline void yield() {
  Thread* const own = current;
  emulator_switch(&own->stack, scheduler);
  current = own;
}
inline void fiber() {
  try {
    (*body)();
  } catch (...) {
    current->error = std::current_exception();
  }
  current->done = true;
  ++block->progress;
  emulator_switch(&current->stack, scheduler);
  std::abort();
}
struct Lock {
  explicit Lock(Gate&) {}
  template <class F>
  void wait(F&& ready) {
    while (!ready()) yield();
  }
  void wake() { ++block->progress; }
};

#endif

inline void open_barrier(Lock& lock) {
  Block& b = *block;
  b.known_any = b.any, b.known_all = b.all;
  b.any = 0, b.all = 1;
  b.arrived = 0;
  ++b.generation;
  lock.wake();
}

inline void barrier(int vote) {
  Block& b = *block;
  Lock lock(b.gate);
  const unsigned own = b.generation;
  b.any |= vote != 0, b.all &= vote != 0;
  if (++b.arrived == b.live) open_barrier(lock);
  lock.wait([&] { return b.generation != own; });
}

inline void leave() {  // a thread has ended: the others wait for it no more
  Lock lock(block->gate);
  --block->live;
  if (block->live != 0 && block->arrived == block->live) open_barrier(lock);
}

inline void warp_barrier(unsigned mask) {
  Warp& warp = block->warps[current->warp];
  const unsigned lane = current->lane;
  if ((mask >> lane & 1) == 0) fail("lane " + std::to_string(lane) + " is not in its own mask");
  Lock lock(*warp.gate);
  const unsigned own = warp.generation[lane];
  warp.arrived |= 1u << lane;
  if ((warp.arrived & mask) == mask) {
    warp.arrived &= ~mask;
    for (int i = 0; i < 32; ++i) warp.generation[i] += mask >> i & 1;
    lock.wake();
  }
  lock.wait([&] { return warp.generation[lane] != own; });
}

inline Warp::Slot& slot(unsigned lane) { return block->warps[current->warp].slots[lane]; }

template <class T>
T exchange(unsigned mask, T value, int source, bool inside) {
  static_assert(sizeof(T) <= 8);
  std::uint64_t raw = 0;
  std::memcpy(&raw, &value, sizeof value);
  slot(current->lane).value = raw;
  warp_barrier(mask);
  T found = value;
  if (inside) {
    if ((mask >> source & 1) == 0) fail("a shuffle reads lane " + std::to_string(source) + " outside its mask");
    std::memcpy(&found, &slot(static_cast<unsigned>(source)).value, sizeof found);
  }
  warp_barrier(mask);
  return found;
}

inline void run_block(const std::function<void()>& kernel) {
  Block& b = *block;
#ifdef EMULATOR_THREADS
  std::vector<std::thread> threads;
  for (Thread& thread : b.threads)
    threads.emplace_back([&] {
      current = &thread;
      kernel();
      leave();
    });
  for (std::thread& thread : threads) thread.join();
#else
  static const std::unique_ptr<char[]> stacks(new char[stack_bytes * most_threads]);  // pages come when they are used
  ASAN_UNPOISON_MEMORY_REGION(stacks.get(), stack_bytes * b.threads.size());  // as the last block's threads left it
  std::function<void()> run = kernel;
  body = &run;
  std::vector<std::size_t> order(b.threads.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
    const auto end = reinterpret_cast<std::uintptr_t>(stacks.get() + stack_bytes * (i + 1)) & ~std::uintptr_t{15};
    auto* top = reinterpret_cast<void**>(end);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&fiber);
    top -= 6;
    std::fill(top, top + 6, nullptr);
    b.threads[i].stack = top;
  }
  std::uint64_t random = seed * 0x9e3779b97f4a7c15ull + 1;
  for (std::size_t left = order.size(); left != 0;) {
    const std::uint64_t before = b.progress;
    for (std::size_t i = order.size(); seed != 0 && i > 1; --i) {
      random ^= random << 13, random ^= random >> 7, random ^= random << 17;
      std::swap(order[i - 1], order[random % i]);
    }
    for (const std::size_t i : order) {
      Thread& thread = b.threads[i];
      if (thread.done) continue;
      current = &thread;
      emulator_switch(&scheduler, thread.stack);
      if (!thread.done) continue;
      if (thread.error) std::rethrow_exception(thread.error);
      --left;
      leave();
    }
    if (left != 0 && b.progress == before) fail("threads wait for each other: a barrier or a mask that not all reach");
  }
#endif
}

inline void launch(dim3 grid, dim3 size, std::size_t shared, const std::function<void()>& kernel) {
  const std::size_t count = std::size_t{size.x} * size.y * size.z;
  if (count == 0 || count > most_threads) fail("a block has 1 to 1024 threads, got " + std::to_string(count));
  if (shared > most_shared) fail("no card has so much shared memory: " + std::to_string(shared));
  if (grid.y > 65535 || grid.z > 65535) fail("a grid has at most 65535 blocks in y and z");
  Block b;
  b.grid = grid, b.size = size;
  b.dynamic.resize(shared + 128);
  ++launches;
  block = &b;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        b.index = dim3(x, y, z);
        b.threads.assign(count, Thread{});
        b.warps.clear();
        b.warps.resize((count + 31) / 32);
        b.live = static_cast<unsigned>(count);
        b.arrived = 0, b.any = 0, b.all = 1;
        std::fill(b.dynamic.begin(), b.dynamic.end(), '\xff');
        if (__start_emulated_shared != nullptr)
          std::memset(__start_emulated_shared, 0xff,
                      static_cast<std::size_t>(__stop_emulated_shared - __start_emulated_shared));
        for (unsigned i = 0; i < count; ++i) {
          Thread& thread = b.threads[i];
          thread.index = dim3(i % size.x, i / size.x % size.y, i / (size.x * size.y));
          thread.lane = i % 32, thread.warp = i / 32;
        }
        run_block(kernel);
      }
  block = nullptr;
}

inline char* dynamic_shared() {
  return reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(block->dynamic.data()) + 127) &
                                 ~std::uintptr_t{127});
}

// ---- a kernel by its name: addresses of its arguments, as cuLaunchKernel takes them

struct Kernel {
  const char* name;
  std::function<void(dim3, dim3, std::size_t, void**)> run;
};

template <class... A>
Kernel kernel(const char* name, void (*function)(A...)) {
  return {name, [function](dim3 grid, dim3 size, std::size_t shared, void** values) {
            [&]<std::size_t... i>(std::index_sequence<i...>) {
              launch(grid, size, shared, [&] { function(*static_cast<A*>(values[i])...); });
            }(std::index_sequence_for<A...>{});
          }};
}

}  // namespace emulator

// ---- CUDA's names

#define threadIdx (::emulator::current->index)
#define blockIdx (::emulator::block->index)
#define blockDim (::emulator::block->size)
#define gridDim (::emulator::block->grid)

inline void __syncthreads() { emulator::barrier(0); }
inline int __syncthreads_or(int vote) {
  emulator::barrier(vote);
  return emulator::block->known_any;
}
inline int __syncthreads_and(int vote) {
  emulator::barrier(vote);
  return emulator::block->known_all;
}
inline void __syncwarp(unsigned mask = emulator::whole_warp) { emulator::warp_barrier(mask); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = static_cast<int>(emulator::current->lane);
  return emulator::exchange(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), true);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = static_cast<int>(emulator::current->lane), source = lane + static_cast<int>(by);
  return emulator::exchange(mask, value, source, (lane & (width - 1)) + static_cast<int>(by) < width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  const int lane = static_cast<int>(emulator::current->lane), source = lane - static_cast<int>(by);
  return emulator::exchange(mask, value, source, (lane & (width - 1)) >= static_cast<int>(by));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  const int lane = static_cast<int>(emulator::current->lane), source = lane ^ with;
  return emulator::exchange(mask, value, source, (source & ~(width - 1)) == (lane & ~(width - 1)));
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  emulator::slot(emulator::current->lane).value = vote != 0;
  emulator::warp_barrier(mask);
  unsigned found = 0;
  for (unsigned i = 0; i < 32; ++i)
    if (mask >> i & 1) found |= static_cast<unsigned>(emulator::slot(i).value) << i;
  emulator::warp_barrier(mask);
  return found;
}
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* p, T value) {
  return std::atomic_ref<T>(*p).fetch_add(value);
}
template <class T>
T atomicOr(T* p, T value) {
  return std::atomic_ref<T>(*p).fetch_or(value);
}
template <class T>
T atomicCAS(T* p, T expected, T value) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, value);
  return expected;
}
template <class T>
T atomicMax(T* p, T value) {
  std::atomic_ref<T> at(*p);
  T old = at.load();
  while (old < value && !at.compare_exchange_weak(old, value)) {
  }
  return old;
}
template <class To, class From>
To __bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __int_as_float(int x) { return __bits<float>(x); }
inline float __uint_as_float(unsigned x) { return __bits<float>(x); }
inline unsigned __float_as_uint(float x) { return __bits<unsigned>(x); }
inline double __longlong_as_double(long long x) { return __bits<double>(x); }
inline long long __double_as_longlong(double x) { return __bits<long long>(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
using std::max;
using std::min;
