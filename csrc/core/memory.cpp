#include "core/memory.h"

#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace genrec {
namespace {

constexpr std::size_t cache_line = 64, huge_page = std::size_t{1} << 21;

std::size_t alignment_of(std::size_t size) { return size >= huge_page ? huge_page : cache_line; }

// Up to whole cache lines, and then, where that made it large, to whole huge pages: what is released must be aligned as
// it was allocated, and only its size is known by then.
std::size_t rounded(std::size_t size) {
  size = (size + cache_line - 1) / cache_line * cache_line;
  const std::size_t alignment = alignment_of(size);
  return (size + alignment - 1) / alignment * alignment;
}

void release(void* data, std::size_t size) noexcept { ::operator delete(data, std::align_val_t{alignment_of(size)}); }

// A thread's blocks between two calls.
class Kept {
 public:
  ~Kept() {
    for (Block& block : blocks_)
      if (block.data) release(block.data, block.size);
  }
  // A block of at least `size` bytes, and not of many more; its size in `size`.
  void* take(std::size_t& size) noexcept {
    Block* best = nullptr;
    for (Block& block : blocks_)
      if (block.data && block.size >= size && block.size / 2 <= size && (!best || block.size < best->size))
        best = &block;
    if (!best) return nullptr;
    size = best->size;
    return std::exchange(best->data, nullptr);
  }
  // Whether the block was kept.
  bool give(void* data, std::size_t size) noexcept {
#if defined(__SANITIZE_ADDRESS__)
    (void)data, (void)size;
    return false;  // the sanitizer sees blocks that are gone
#else
    if (size < smallest || size > largest) return false;
    Block& block = blocks_[next_++ % num_blocks];
    if (block.data) release(block.data, block.size);
    block = {data, size};
    return true;
#endif
  }

 private:
  static constexpr std::size_t num_blocks = 4, smallest = std::size_t{1} << 16, largest = std::size_t{1} << 24;
  struct Block {
    void* data = nullptr;
    std::size_t size = 0;
  };
  Block blocks_[num_blocks];
  std::size_t next_ = 0;
};

thread_local Kept kept;

}  // namespace

Memory::Memory(std::int64_t bytes) {
  if (bytes <= 0) return;
  size_ = rounded(static_cast<std::size_t>(bytes));
  data_ = kept.take(size_);
  if (data_) return;
  const std::size_t alignment = alignment_of(size_);
  data_ = ::operator new(size_, std::align_val_t{alignment});
  if (!data_) throw std::bad_alloc();  // a sanitizer's allocator does not
#if defined(__linux__)
  if (alignment == huge_page) madvise(data_, size_, MADV_HUGEPAGE);  // advice: refused, it costs nothing
#endif
}

void ask_huge_pages(void* data, std::int64_t bytes) {
#if defined(__linux__)
  const std::uintptr_t first = (reinterpret_cast<std::uintptr_t>(data) + huge_page - 1) / huge_page * huge_page;
  const std::uintptr_t last =
      (reinterpret_cast<std::uintptr_t>(data) + static_cast<std::uintptr_t>(bytes)) / huge_page * huge_page;
  if (bytes > 0 && first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Memory::~Memory() {
  if (data_ && !kept.give(data_, size_)) release(data_, size_);
}

}  // namespace genrec
