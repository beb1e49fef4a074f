#include "ops/trie/trie_lookup.h"

#include <algorithm>

#include "core/check.h"
#include "core/parallel.h"
#include "ops/trie/trie_shape.h"

namespace genrec {
namespace {

constexpr std::int64_t prefixes_per_task = 2048;  // 200 us and more where the trie is larger than the caches

template <typename T>
std::int32_t find(const TrieView& trie, const T* codes, int length) {
  std::int64_t node = 0;
  for (int l = 0; l < length && node >= 0; ++l)
    node = find_edge(trie.levels[l], edges_of(trie.levels[l], node), static_cast<std::int64_t>(codes[l]));
  return static_cast<std::int32_t>(node);
}

template <typename T>
void find_all(const TrieView& trie, const T* codes, std::int64_t count, int length, int num_threads,
              std::int32_t* out) {
  const std::int64_t num_tasks = (count + prefixes_per_task - 1) / prefixes_per_task;
  parallel_for(num_tasks, num_threads, [&](std::int64_t task) {
    const std::int64_t end = std::min((task + 1) * prefixes_per_task, count);
    for (std::int64_t q = task * prefixes_per_task; q < end; ++q) out[q] = find(trie, codes + q * length, length);
  });
}

}  // namespace

void trie_lookup(const TrieView& trie, const void* codes, int code_size, std::int64_t num_prefixes, int length,
                 int num_threads, std::int32_t* out) {
  check_trie("trie_lookup", trie);
  check(length >= 1 && length <= trie.num_levels, "trie_lookup: codes must have 1 to ", trie.num_levels,
        " levels, got ", length);
  if (code_size == 4)
    find_all(trie, static_cast<const std::int32_t*>(codes), num_prefixes, length, num_threads, out);
  else
    find_all(trie, static_cast<const std::int64_t*>(codes), num_prefixes, length, num_threads, out);
}

}  // namespace genrec
