#include "core/memory.h"

#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace genrec {
namespace {

constexpr std::size_t cache_line = 64, huge_page = std::size_t{1} << 21;

}  // namespace

Memory::Memory(std::int64_t bytes) {
  if (bytes <= 0) return;
  std::size_t size = static_cast<std::size_t>(bytes);
  alignment_ = size >= huge_page ? huge_page : cache_line;
  size = (size + alignment_ - 1) / alignment_ * alignment_;
  data_ = ::operator new(size, std::align_val_t{alignment_});
#if defined(__linux__)
  if (alignment_ == huge_page) madvise(data_, size, MADV_HUGEPAGE);  // advice: refused, it costs nothing
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
    : data_(std::exchange(other.data_, nullptr)), alignment_(std::exchange(other.alignment_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(alignment_, other.alignment_);
  return *this;
}

Memory::~Memory() {
  if (data_) ::operator delete(data_, std::align_val_t{alignment_});
}

}  // namespace genrec
