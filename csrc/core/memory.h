// Working memory of the kernels: aligned for every vector, never initialised.
#pragma once
#include <cstddef>
#include <cstdint>

namespace genrec {

// A thread keeps the last few blocks that it gave back, up to 64 MiB in all, and takes them again: calls follow each
// other with equal sizes, and a fresh page costs more than what a kernel does with it (a step of a small transformer:
// 0.1 ms of page faults in 2 ms). Large blocks ask the system for huge pages where it offers them: a fresh 4 KiB page
// costs about as long as filling it (packing 2.4 MiB of codebooks: 1.1 ms with small pages, 0.3 ms with huge ones).
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::int64_t bytes);  // throws std::bad_alloc
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// The same wish for an output of the caller's that is about to be filled from end to end; small ones are left alone.
void ask_huge_pages(void* data, std::int64_t bytes);

// A hint that `address` will be read soon; it may lie anywhere.
inline void fetch_ahead([[maybe_unused]] const void* address) {
#if defined(__GNUC__)
  __builtin_prefetch(address);
#endif
}

}  // namespace genrec
