// Which codes a partly written semantic ID may still get, as ops/reference/completable_codes.py defines it. Two
// kernels:
//
//   mark    a thread an item, a block some of the rows: an item that has what a row has written marks its codes at the
//           levels that are masked, a bit each, in shared memory where the rows' bits fit
//   spread  a thread a bit: a byte of the answer
//
// Every item is compared: there are no lists of the items that have a code, which a card would have to sort first. An
// item with a code outside its level is none; a row with one fits no item, and a user with an excluded item that is not
// there finds none.
#include "item_lists.cuh"

struct CompletableCodes {        // python/genrec_fast/ops/_cuda_completable_codes.py writes the same
  const int* written;            // [rows, num_levels], -1: masked
  const void* item_codes;        // [num_items, num_levels]
  const int* bases;              // [num_levels + 1]: level l's codes are bits bases[l] .. bases[l + 1)
  const unsigned char* allowed;  // user b may find item n where allowed[b * allowed_stride + n]; null: all
  ItemLists excluded;
  unsigned* bits;  // [rows, words], 0 before
  long long allowed_stride, rows, rows_of_user, num_items, words;
  int num_levels;
  int block_rows;  // of a block
  int staged;      // whether a block's bits stand in shared memory
};

DEVICE_INLINE bool may_find(const CompletableCodes& search, long long user, long long item) {
  if (search.allowed && !search.allowed[user * search.allowed_stride + item]) return false;
  return !is_wrong_list(search.excluded, user, search.num_items) && !is_listed(search.excluded, user, item);
}

template <class Code>
DEVICE_INLINE bool is_item(const CompletableCodes& search, const Code* codes) {
  for (int level = 0; level < search.num_levels; ++level) {
    const int code = static_cast<int>(codes[level]);
    if (code < 0 || code >= __ldg(search.bases + level + 1) - __ldg(search.bases + level)) return false;
  }
  return true;
}

template <class Code>
DEVICE_INLINE bool fits(const CompletableCodes& search, const int* row, const Code* codes) {
  for (int level = 0; level < search.num_levels; ++level)
    if (row[level] != -1 && row[level] != static_cast<int>(codes[level])) return false;
  return true;
}

template <class Code>
DEVICE_INLINE void mark_codes(const CompletableCodes& search) {
  DEVICE_SHARED(unsigned, staged);
  const long long tiles = (search.num_items + blockDim.x - 1) / blockDim.x;  // of items
  const long long first = blockIdx.x / tiles * search.block_rows;
  const long long left = search.rows - first, count = left < search.block_rows ? left : search.block_rows;
  const long long item = blockIdx.x % tiles * blockDim.x + threadIdx.x;
  if (search.staged) {
    for (long long at = threadIdx.x; at < count * search.words; at += blockDim.x) staged[at] = 0u;
    __syncthreads();
  }
  unsigned* const bits = search.staged ? staged : search.bits + first * search.words;
  const Code* const codes = static_cast<const Code*>(search.item_codes) + item * search.num_levels;
  if (item < search.num_items && is_item(search, codes)) {
    long long known = -1;
    bool found = false;
    for (long long r = 0; r < count; ++r) {
      const long long user = (first + r) / search.rows_of_user;
      if (user != known) found = may_find(search, known = user, item);
      const int* const row = search.written + (first + r) * search.num_levels;
      if (!found || !fits(search, row, codes)) continue;
      for (int level = 0; level < search.num_levels; ++level) {
        if (row[level] != -1) continue;
        const unsigned bit = static_cast<unsigned>(__ldg(search.bases + level)) + static_cast<unsigned>(codes[level]);
        atomicOr(bits + r * search.words + (bit >> 5), 1u << (bit & 31u));
      }
    }
  }
  if (!search.staged) return;
  __syncthreads();
  for (long long at = threadIdx.x; at < count * search.words; at += blockDim.x)
    if (staged[at]) atomicOr(search.bits + first * search.words + at, staged[at]);
}

// The tensor says the card.
extern "C" __global__ void __launch_bounds__(256) completable_codes_mark_uint8(CompletableCodes search, const int*) {
  mark_codes<unsigned char>(search);
}
extern "C" __global__ void __launch_bounds__(256) completable_codes_mark_int32(CompletableCodes search, const int*) {
  mark_codes<int>(search);
}

extern "C" __global__ void __launch_bounds__(256)
    completable_codes_spread(const unsigned* bits, long long words, long long rows, long long width,
                             unsigned char* codes) {
  const long long at = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= rows * width) return;
  const long long row = at / width, bit = at % width;
  codes[at] = static_cast<unsigned char>(bits[row * words + (bit >> 5)] >> (bit & 31) & 1u);
}
