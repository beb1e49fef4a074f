#include "ops/fingerprint/fingerprint.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"

GENREC_PER_ISA(std::uint64_t fingerprint_sum(const void* data, std::int64_t bytes, std::uint64_t first);)

namespace genrec {
namespace {

constexpr std::int64_t bytes_per_task = 1 << 20;  // 50 us from the third cache, 100 us from memory

// A stretch of whole blocks, or the end of an array.
struct Stretch {
  std::int64_t array, begin, bytes;
};

std::uint64_t sum_of(const void* data, const Stretch& part) {
  const char* start = static_cast<const char*>(data) + part.begin;
  const auto first = static_cast<std::uint64_t>(part.begin / fingerprint_block);
  return GENREC_DISPATCH(fingerprint_sum(start, part.bytes, first));
}

}  // namespace

std::uint64_t fingerprint(const void* const* data, const std::int64_t* bytes, std::int64_t count, int num_threads) {
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    check(bytes[i] >= 0, "fingerprint: bytes must be at least 0, got ", bytes[i], " for tensor ", i);
    check(data[i] != nullptr || bytes[i] == 0, "fingerprint: tensor ", i, " must have data, got ", bytes[i],
          " bytes without an address");
    total = total > INT64_MAX - bytes[i] ? INT64_MAX : total + bytes[i];
  }
  std::uint64_t value = 0;
  const auto chain = [&](std::int64_t i, std::uint64_t sum) {
    const std::uint64_t array = fingerprint_mix(static_cast<std::uint64_t>(bytes[i])) + sum;
    value = fingerprint_mix(value ^ array) + fingerprint_golden;
  };
  if (num_threads <= 1 || total < 2 * bytes_per_task) {
    for (std::int64_t i = 0; i < count; ++i) chain(i, sum_of(data[i], {i, 0, bytes[i]}));
    return value;
  }
  // Arrays are cut into stretches, and stretches of about one task's bytes go together: many arrays are small.
  std::vector<Stretch> stretches;
  std::vector<std::size_t> starts;
  std::int64_t held = bytes_per_task;
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t begin = 0; begin < bytes[i];) {
      if (held >= bytes_per_task) {
        starts.push_back(stretches.size());
        held = 0;
      }
      const std::int64_t size = std::min(bytes_per_task, bytes[i] - begin);
      stretches.push_back({i, begin, size});
      begin += size;
      held += size;
    }
  starts.push_back(stretches.size());
  std::vector<std::atomic<std::uint64_t>> sums(static_cast<std::size_t>(count));
  parallel_for(static_cast<std::int64_t>(starts.size()) - 1, num_threads, [&](std::int64_t task) {
    for (std::size_t s = starts[static_cast<std::size_t>(task)]; s < starts[static_cast<std::size_t>(task) + 1]; ++s) {
      const Stretch& part = stretches[s];
      sums[static_cast<std::size_t>(part.array)].fetch_add(sum_of(data[part.array], part), std::memory_order_relaxed);
    }
  });
  for (std::int64_t i = 0; i < count; ++i) chain(i, sums[static_cast<std::size_t>(i)].load());
  return value;
}

}  // namespace genrec
