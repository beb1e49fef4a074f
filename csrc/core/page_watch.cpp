#include "core/page_watch.h"

#if defined(__linux__) && defined(__LP64__)
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>

namespace genrec {
namespace {

// ---- linux/userfaultfd.h and linux/fs.h, as far as they are used here: the headers of a build machine are older

struct UffdApi {
  std::uint64_t api, features, ioctls;
};
struct UffdRegister {
  std::uint64_t begin, length, mode, ioctls;
};
struct Region {
  std::uint64_t begin, end, categories;
};
struct Scan {
  std::uint64_t size, flags, begin, end, walk_end, regions, num_regions, max_pages;
  std::uint64_t inverted, all_of, any_of, returned;
};
constexpr unsigned long uffd_api = _IOWR(0xAA, 0x3F, UffdApi), uffd_register = _IOWR(0xAA, 0x00, UffdRegister);
constexpr unsigned long pagemap_scan = _IOWR('f', 16, Scan);
constexpr int user_mode_only = 1;
constexpr std::uint64_t version = 0xAA, wp_unpopulated = 1u << 13, wp_async = 1u << 15, mode_wp = 2;
constexpr std::uint64_t protect_matching = 1, refuse_unwatched = 2;
constexpr std::uint64_t is_written = 2, is_present = 8;

}  // namespace

PageWatch::PageWatch() {
#ifdef SYS_userfaultfd
  faults_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | user_mode_only));
  UffdApi wanted{version, wp_unpopulated | wp_async, 0};
  if (faults_ < 0 || ioctl(faults_, uffd_api, &wanted) != 0) return;
  memory_ = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  page_size_ = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
#endif
}

PageWatch::~PageWatch() {
  if (faults_ >= 0) close(faults_);
  if (memory_ >= 0) close(memory_);
}

std::vector<Pages> PageWatch::own_memory() const {
  std::vector<Pages> out;
  std::FILE* const maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return out;
  std::uint64_t begin, end, inode;
  char mode[5], line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    // begin-end rwxp offset device inode path; the end of a long path is read as a line of its own, which fits nothing
    const int read = std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %" SCNu64, &begin, &end, mode, &inode);
    if (read != 4 || mode[3] != 'p' || inode != 0) continue;
    if (!out.empty() && out.back().end == begin)
      out.back().end = end;
    else
      out.push_back({begin, end});
  }
  std::fclose(maps);
  return out;
}

bool PageWatch::add(const Pages& pages) {
  UffdRegister range{pages.begin, pages.end - pages.begin, mode_wp, 0};
  return usable() && ioctl(faults_, uffd_register, &range) == 0;
}

bool PageWatch::written(const Pages& pages, std::vector<Pages>& out) {
  Region regions[32];
  for (std::uintptr_t at = pages.begin; at < pages.end;) {
    // Written, or not there: memory that was given back to the system reads as zeros.
    Scan scan{sizeof(Scan),
              protect_matching | refuse_unwatched,
              at,
              pages.end,
              0,
              reinterpret_cast<std::uint64_t>(regions),
              32,
              0,
              is_present,
              0,
              is_written | is_present,
              is_written};
    const long found = ioctl(memory_, pagemap_scan, &scan);
    if (found < 0 || scan.walk_end <= at) return false;
    for (long r = 0; r < found; ++r) out.push_back({regions[r].begin, regions[r].end});
    at = scan.walk_end;
  }
  return true;
}

}  // namespace genrec

#else

namespace genrec {

PageWatch::PageWatch() = default;
PageWatch::~PageWatch() = default;
std::vector<Pages> PageWatch::own_memory() const { return {}; }
bool PageWatch::add(const Pages&) { return false; }
bool PageWatch::written(const Pages&, std::vector<Pages>&) { return false; }

}  // namespace genrec

#endif
