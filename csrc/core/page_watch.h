// Which pages of this process's memory were written since it was last asked: the page tables know, whoever wrote.
//
// Linux 6.7 and later, where userfaultfd may be opened: its asynchronous write protection, read and set again by
// PAGEMAP_SCAN in one step. A page that is written loses its protection in the kernel, nobody waits for anything and no
// signal is sent; the first write to a page costs about a microsecond more. Elsewhere nothing can be watched.
#pragma once
#include <cstdint>
#include <vector>

namespace genrec {

struct Pages {
  std::uintptr_t begin, end;  // addresses, whole pages
};

class PageWatch {
 public:
  PageWatch();
  ~PageWatch();
  PageWatch(const PageWatch&) = delete;
  PageWatch& operator=(const PageWatch&) = delete;

  bool usable() const { return memory_ >= 0; }
  std::uintptr_t page_size() const { return page_size_; }

  // Memory of this process alone, in order, neighbours joined: shared memory and files can be written by others, and
  // no page table of ours would know.
  std::vector<Pages> own_memory() const;

  // Begins to watch. False: part of it is not mapped, or is not plain memory.
  bool add(const Pages& pages);

  // Appends what was written since the last look, or may have been, and looks anew from now on. False: part of the
  // memory is no longer watched, since it was unmapped, or mapped anew.
  bool written(const Pages& pages, std::vector<Pages>& out);

 private:
  int faults_ = -1, memory_ = -1;  // userfaultfd, /proc/self/pagemap
  std::uintptr_t page_size_ = 1;
};

}  // namespace genrec
