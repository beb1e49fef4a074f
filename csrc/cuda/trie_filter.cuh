// Filters over items -> bits, ranks and excluded rows, as csrc/ops/trie/trie_filter.h describes them.
//
//   bits     a thread per user and item sets its row's bit
//   counts   a block per user and chunk of words counts bits
//   ranks    a block per user and chunk: the bits of the chunks before, and of the words before each
//   lists    a block per user: the rows that lose their last allowed item to the list, at the list's own place
//   offsets  one block: how many rows the users before have
//   move     a block per user: its rows, where they belong
//
// Lists with an item that is not there become the row -1, and broken offsets make every row offset -1: trie_step
// refuses the users of both.
#include "select.cuh"
#include "trie.cuh"

struct RowItems {  // python/genrec_fast/ops/_cuda_trie_filter.py writes the same
  const int* item_rows;
  long long num_items;
  PackedOffsets leaf;  // items of row r: leaf_items[off(r)] to off(r + 1)
  const int* leaf_items;
  long long num_rows;
};

constexpr int chunk_words = 4096, short_list = 2048;
constexpr Key nobody = ~Key{0};

extern "C" __global__ void __launch_bounds__(256)
    trie_filter_bits(const int* item_rows, long long num_items, const unsigned char* allowed, long long count,
                     long long num_rows, Key* bits) {
  const long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= count || !allowed[at]) return;
  const long long user = at / num_items, row = item_rows[at - user * num_items];
  if (row >= 0 && row < num_rows) atomicOr(&bits[user * (num_rows / 64 + 1) + (row >> 6)], Key{1} << (row & 63));
}

extern "C" __global__ void __launch_bounds__(256)
    trie_filter_counts(const Key* bits, long long words, int chunks, unsigned* counts) {
  __shared__ unsigned warps[32];
  const long long user = blockIdx.x / chunks, first = blockIdx.x % chunks * static_cast<long long>(chunk_words);
  const long long end = first + chunk_words < words ? first + chunk_words : words;
  unsigned own = 0;
  for (long long word = first + threadIdx.x; word < end; word += blockDim.x) own += __popcll(bits[user * words + word]);
  const Before before = sum_before(own, warps);
  if (threadIdx.x == 0) counts[blockIdx.x] = before.all;
}

extern "C" __global__ void __launch_bounds__(256)
    trie_filter_ranks(const Key* bits, long long words, int chunks, const unsigned* counts, int* ranks) {
  __shared__ unsigned warps[32];
  const long long user = blockIdx.x / chunks, first = blockIdx.x % chunks * static_cast<long long>(chunk_words);
  const long long end = first + chunk_words < words ? first + chunk_words : words;
  unsigned own = 0;
  for (unsigned chunk = threadIdx.x; chunk < blockIdx.x % chunks; chunk += blockDim.x)
    own += counts[user * chunks + chunk];
  unsigned passed = sum_before(own, warps).all;
  for (long long word = first; word < end; word += blockDim.x) {
    const long long mine = word + threadIdx.x;
    __syncthreads();
    const Before before = sum_before(mine < end ? __popcll(bits[user * words + mine]) : 0u, warps);
    if (mine < end) ranks[user * words + mine] = static_cast<int>(passed + before.mine);
    passed += before.all;
  }
}

// How many of the row's items are allowed; `kept` null: all are.
DEVICE_INLINE long long items_left(const RowItems& catalog, const unsigned char* kept, long long row) {
  const long long begin = offset_at(catalog.leaf, row), end = offset_at(catalog.leaf, row + 1);
  if (begin < 0 || begin > end || end > catalog.num_items) return 0;
  if (!kept || end - begin == 1) return end - begin;
  long long left = 0;
  for (long long at = begin; at < end; ++at) {
    const int item = catalog.leaf_items[at];
    left += item >= 0 && item < catalog.num_items && kept[item];
  }
  return left;
}

// `keys` and `rows` hold as many as `items`; numbers[user]: rows that were found, -1: broken offsets.
extern "C" __global__ void __launch_bounds__(256)
    trie_filter_lists(RowItems catalog, const unsigned char* allowed, long long allowed_users, const long long* items,
                      long long num_values, const long long* offsets, Key* keys, int* rows, long long* numbers) {
  __shared__ Key own_keys[short_list];
  __shared__ unsigned warps[32];
  const long long user = blockIdx.x, begin = offsets[user], end = offsets[user + 1], count = end - begin;
  if (begin < 0 || begin > end || end > num_values) {
    if (threadIdx.x == 0) numbers[user] = -1;
    return;
  }
  const unsigned char* kept = allowed ? allowed + (allowed_users > 1 ? user : 0) * catalog.num_items : nullptr;
  Key* const list = count <= short_list ? own_keys : keys + begin;  // row, then item
  bool wrong = false;
  for (long long i = threadIdx.x; i < count; i += blockDim.x) {
    const long long item = items[begin + i];
    const bool there = item >= 0 && item < catalog.num_items;
    const int row = there ? catalog.item_rows[item] : 0;
    wrong = wrong || !there || row < 0 || row >= catalog.num_rows;
    list[i] = there && (!kept || kept[item]) ? static_cast<Key>(row) << 32 | static_cast<Key>(item) : nobody;
  }
  if (__syncthreads_or(wrong)) {
    if (threadIdx.x == 0) rows[begin] = -1, numbers[user] = 1;
    return;
  }
  sort_keys(list, count);
  unsigned found = 0;
  for (long long first = 0; first < count; first += blockDim.x) {
    const long long i = first + threadIdx.x;
    bool gone = false;
    if (i < count && list[i] != nobody && (i == 0 || list[i] >> 32 != list[i - 1] >> 32)) {
      const Key row = list[i] >> 32;
      long long lost = 1;
      for (long long next = i + 1; next < count && list[next] >> 32 == row; ++next)
        lost += list[next] != list[next - 1];
      gone = lost >= items_left(catalog, kept, static_cast<long long>(row));
    }
    const Before before = sum_before(gone, warps);
    if (gone) rows[begin + found + before.mine] = static_cast<int>(list[i] >> 32);
    found += before.all;
    __syncthreads();
  }
  if (threadIdx.x == 0) numbers[user] = found;
}

extern "C" __global__ void __launch_bounds__(1024)
    trie_filter_offsets(const long long* numbers, long long users, long long* row_offsets) {
  __shared__ unsigned warps[32];
  bool broken = false;
  for (long long user = threadIdx.x; user < users; user += blockDim.x) broken = broken || numbers[user] < 0;
  const bool any = __syncthreads_or(broken) != 0;
  long long passed = 0;
  for (long long first = 0; first < users; first += blockDim.x) {
    const long long user = first + threadIdx.x;
    const Before before = sum_before(any || user >= users ? 0u : static_cast<unsigned>(numbers[user]), warps);
    if (user < users) row_offsets[user] = any ? -1 : passed + before.mine;
    passed += before.all;
    __syncthreads();
  }
  if (threadIdx.x == 0) row_offsets[users] = any ? -1 : passed;
}

// `to` is 0 before.
extern "C" __global__ void __launch_bounds__(256)
    trie_filter_move(const int* rows, const long long* offsets, const long long* row_offsets, int* to) {
  const long long user = blockIdx.x, first = row_offsets[user], count = row_offsets[user + 1] - first;
  for (long long i = threadIdx.x; first >= 0 && i < count; i += blockDim.x) to[first + i] = rows[offsets[user] + i];
}
