#include "ops/fingerprint/fingerprint_watch.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "core/check.h"
#include "core/page_watch.h"
#include "ops/fingerprint/fingerprint_parts.h"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#else
static int getpid() { return 0; }  // no fork
#endif

namespace genrec {
namespace {

constexpr std::uintptr_t least_watched = 1 << 14;  // bytes: to read less costs no more than to ask
constexpr std::uintptr_t widest_gap = 2;  // pages between arrays that are asked for together: others write there
constexpr std::uintptr_t seam = 128;      // bytes between arrays that were allocated one after the other

struct Part : FingerprintPart {
  Pages pages;        // that hold it, if it is watched
  bool watched;       // else it is read at every call
  bool stale = true;  // written since `sum` was taken
};

struct Watch {
  std::vector<const void*> data;
  std::vector<std::int64_t> bytes;
  std::vector<std::int64_t> ends;  // of each array's parts
  std::vector<Part> parts;
  std::vector<Part*> watched;  // ascending
  std::vector<Pages> spans;    // that are asked for, with what lies between arrays
};

// Of one process: a fork copies memory without its protection, and this begins anew.
struct State {
  const std::int64_t process = getpid();
  std::mutex mutex;
  PageWatch pages;
  std::map<std::int64_t, Watch> watches;
};

State& state() {
  static std::atomic<State*> current{nullptr};
  State* found = current.load();
  while (found == nullptr || found->process != getpid()) {
    auto* const made = new State;  // the parent's is left alone: a thread of the parent may have held its lock
    if (current.compare_exchange_strong(found, made)) return *made;
    delete made;
  }
  return *found;
}

// Cuts arrays into parts, and begins to watch those that can be.
void arrange(State& all, Watch& watch, const void* const* data, const std::int64_t* bytes, std::int64_t count) {
  watch = {};
  watch.data.assign(data, data + count);
  watch.bytes.assign(bytes, bytes + count);
  const std::vector<Pages> own = all.pages.usable() ? all.pages.own_memory() : std::vector<Pages>{};
  const auto is_own = [&](const Pages& pages) {
    const auto after = std::upper_bound(own.begin(), own.end(), pages.begin,
                                        [](std::uintptr_t at, const Pages& p) { return at < p.begin; });
    return after != own.begin() && pages.end <= (after - 1)->end;
  };
  const std::uintptr_t page = all.pages.page_size();
  const auto begin_of = [&](std::int64_t i) { return reinterpret_cast<std::uintptr_t>(data[i]); };
  const auto end_of = [&](std::int64_t i) { return begin_of(i) + static_cast<std::uintptr_t>(bytes[i]); };
  std::vector<std::uintptr_t> begins, ends;  // of the large arrays
  for (std::int64_t i = 0; i < count; ++i)
    if (bytes[i] >= static_cast<std::int64_t>(least_watched)) begins.push_back(begin_of(i)), ends.push_back(end_of(i));
  std::sort(begins.begin(), begins.end());
  std::sort(ends.begin(), ends.end());
  // Whether a page where an array begins or ends is filled up by another: else somebody may write there all the time.
  const auto follows = [&](std::uintptr_t start) {
    const auto next = std::upper_bound(ends.begin(), ends.end(), start);
    return next != ends.begin() && start - *(next - 1) <= seam;
  };
  const auto goes_on = [&](std::uintptr_t end) {
    const auto next = std::lower_bound(begins.begin(), begins.end(), end);
    return next != begins.end() && *next - end <= seam;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    const auto* const array = static_cast<const char*>(data[i]);
    const std::uintptr_t start = begin_of(i), end = end_of(i);
    const Pages pages{(start + page - 1) / page * page, end / page * page};
    const auto add = [&](std::int64_t from, std::int64_t until, bool watched, const Pages& holding) {
      if (from == until) return;
      Part part;
      part.data = array + from;
      part.begin = from;
      part.bytes = until - from;
      part.sum = 0;
      part.pages = holding;
      part.watched = watched;
      watch.parts.push_back(part);
    };
    if (end >= start && pages.begin < pages.end && pages.end - pages.begin >= least_watched && is_own(pages)) {
      const auto whole = [&](std::uintptr_t at) { return static_cast<std::int64_t>(at - start) / fingerprint_block; };
      const std::int64_t first = whole(pages.begin + fingerprint_block - 1) * fingerprint_block;
      const std::int64_t last = whole(pages.end) * fingerprint_block;
      // Parts end where blocks do, so both reach into the middle's pages.
      const Pages head{pages.begin - page, pages.begin + page}, tail{pages.end - page, pages.end + page};
      add(0, first, follows(start) && is_own(head), head);
      add(first, last, true, pages);
      add(last, bytes[i], goes_on(end) && is_own(tail), tail);
    } else {
      add(0, bytes[i], false, pages);
    }
    watch.ends.push_back(static_cast<std::int64_t>(watch.parts.size()));
  }
  for (Part& part : watch.parts)
    if (part.watched) watch.watched.push_back(&part);
  const auto before = [](const Part* a, const Part* b) { return a->pages.begin < b->pages.begin; };
  std::sort(watch.watched.begin(), watch.watched.end(), before);
  for (std::size_t first = 0, last; first < watch.watched.size(); first = last) {
    Pages span = watch.watched[first]->pages;
    for (last = first + 1; last < watch.watched.size(); ++last) {
      const Pages next = watch.watched[last]->pages;
      const Pages joined{span.begin, std::max(span.end, next.end)};
      if (next.begin > span.end + widest_gap * page || !is_own(joined)) break;
      span = joined;
    }
    if (all.pages.add(span)) {
      watch.spans.push_back(span);
      continue;
    }
    for (std::size_t p = first; p < last; ++p) {
      Part& part = *watch.watched[p];
      part.watched = all.pages.add(part.pages);
      if (part.watched) watch.spans.push_back(part.pages);
    }
  }
}

// What was written is stale, in whatever watch: a look takes the marks of pages away.
void spread(State& all, const std::vector<Pages>& written) {
  for (auto& [name, watch] : all.watches)
    for (const Pages& pages : written)
      for (Part* const part : watch.watched)
        part->stale |= part->pages.begin < pages.end && pages.begin < part->pages.end;
}

// Whether all spans are watched still.
bool look(State& all, const Watch& watch) {
  std::vector<Pages> written;
  bool watched = true;
  for (const Pages& span : watch.spans) watched = all.pages.written(span, written) && watched;
  spread(all, written);
  return watched;
}

}  // namespace

bool fingerprint_watches() { return state().pages.usable(); }

std::int64_t fingerprint_open() {
  static std::atomic<std::int64_t> last{0};
  return ++last;
}

void fingerprint_close(std::int64_t watch) {
  State& all = state();
  const std::lock_guard<std::mutex> locked(all.mutex);
  all.watches.erase(watch);
}

std::uint64_t fingerprint_watched(std::int64_t name, const void* const* data, const std::int64_t* bytes,
                                  std::int64_t count, int num_threads) {
  check_arrays(data, bytes, count);
  State& all = state();
  const std::lock_guard<std::mutex> locked(all.mutex);
  Watch& watch = all.watches[name];
  const bool same = std::equal(watch.data.begin(), watch.data.end(), data, data + count) &&
                    std::equal(watch.bytes.begin(), watch.bytes.end(), bytes, bytes + count);
  if (!same || !look(all, watch)) {
    arrange(all, watch, data, bytes, count);
    // The first look protects; if memory is unmapped meanwhile, nothing is kept.
    if (!look(all, watch))
      for (Part& part : watch.parts) part.watched = false;
  }
  std::vector<FingerprintPart*> read;
  for (Part& part : watch.parts)
    if (!part.watched || part.stale) read.push_back(&part);
  sum_parts(read.data(), static_cast<std::int64_t>(read.size()), num_threads);
  for (Part& part : watch.parts) part.stale = false;
  std::uint64_t value = 0;
  for (std::int64_t i = 0, p = 0; i < count; ++i) {
    std::uint64_t sum = 0;
    for (; p < watch.ends[static_cast<std::size_t>(i)]; ++p) sum += watch.parts[static_cast<std::size_t>(p)].sum;
    value = fingerprint_chain(value, bytes[i], sum);
  }
  return value;
}

}  // namespace genrec
