#include "ops/fingerprint/fingerprint.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/fingerprint/fingerprint_parts.h"

GENREC_PER_ISA(std::uint64_t fingerprint_sum(const void* data, std::int64_t bytes, std::uint64_t first);)

namespace genrec {
namespace {

constexpr std::int64_t bytes_per_task = 1 << 20;  // 50 us from the third cache, 100 us from memory

// Whole blocks of a part, or its end.
struct Stretch {
  std::int64_t part, begin, bytes;
};

std::uint64_t sum_of(const FingerprintPart& part, std::int64_t begin, std::int64_t bytes) {
  const auto first = static_cast<std::uint64_t>((part.begin + begin) / fingerprint_block);
  return GENREC_DISPATCH(fingerprint_sum(part.data + begin, bytes, first));
}

// Small parts lie here and there, and the processor has no time to see where they go on.
void fetch(const FingerprintPart& part) {
  const std::int64_t most = std::min(part.bytes, 4 * fingerprint_block);
  for (std::int64_t at = 0; at < most; at += 64) fetch_ahead(part.data + at);
}

}  // namespace

void sum_parts(FingerprintPart* const* parts, std::int64_t count, int num_threads) {
  std::int64_t total = 0;
  for (std::int64_t p = 0; p < count; ++p)
    total = total > INT64_MAX - parts[p]->bytes ? INT64_MAX : total + parts[p]->bytes;
  if (num_threads <= 1 || total < 2 * bytes_per_task) {
    for (std::int64_t p = 0; p < count; ++p) {
      if (p + 1 < count) fetch(*parts[p + 1]);
      parts[p]->sum = sum_of(*parts[p], 0, parts[p]->bytes);
    }
    return;
  }
  // Parts are cut into stretches, and stretches of about one task's bytes go together: many parts are small.
  std::vector<Stretch> stretches;
  std::vector<std::size_t> starts;
  std::int64_t held = bytes_per_task;
  for (std::int64_t p = 0; p < count; ++p)
    for (std::int64_t begin = 0; begin < parts[p]->bytes;) {
      if (held >= bytes_per_task) {
        starts.push_back(stretches.size());
        held = 0;
      }
      const std::int64_t size = std::min(bytes_per_task, parts[p]->bytes - begin);
      stretches.push_back({p, begin, size});
      begin += size;
      held += size;
    }
  starts.push_back(stretches.size());
  std::vector<std::atomic<std::uint64_t>> sums(static_cast<std::size_t>(count));
  parallel_for(static_cast<std::int64_t>(starts.size()) - 1, num_threads, [&](std::int64_t task) {
    for (std::size_t s = starts[static_cast<std::size_t>(task)]; s < starts[static_cast<std::size_t>(task) + 1]; ++s) {
      const auto [part, begin, bytes] = stretches[s];
      sums[static_cast<std::size_t>(part)].fetch_add(sum_of(*parts[part], begin, bytes), std::memory_order_relaxed);
    }
  });
  for (std::int64_t p = 0; p < count; ++p) parts[p]->sum = sums[static_cast<std::size_t>(p)].load();
}

void check_arrays(const void* const* data, const std::int64_t* bytes, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    check(bytes[i] >= 0, "fingerprint: bytes must be at least 0, got ", bytes[i], " for tensor ", i);
    check(data[i] != nullptr || bytes[i] == 0, "fingerprint: tensor ", i, " must have data, got ", bytes[i],
          " bytes without an address");
  }
}

std::uint64_t fingerprint(const void* const* data, const std::int64_t* bytes, std::int64_t count, int num_threads) {
  check_arrays(data, bytes, count);
  std::vector<FingerprintPart> arrays;
  std::vector<FingerprintPart*> all;
  arrays.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    arrays.push_back({static_cast<const char*>(data[i]), 0, bytes[i], 0});
    all.push_back(&arrays.back());
  }
  sum_parts(all.data(), count, num_threads);
  std::uint64_t value = 0;
  for (std::int64_t i = 0; i < count; ++i)
    value = fingerprint_chain(value, bytes[i], all[static_cast<std::size_t>(i)]->sum);
  return value;
}

}  // namespace genrec
