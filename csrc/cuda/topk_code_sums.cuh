// The k items whose codes have the highest sum of scores, the twin's bits. Two kernels:
//
//   scan   a block per part of the items and one, two or four users, whose scores lie side by side in shared memory
//          (in global memory, where a user's alone do not fit): every item is scored, what beats the k-th so far goes
//          to the user's buffer of keys, and a buffer that is full is cut back to its best k
//   best   a block per user: the best k of all parts, in order
//
// A user with a score that is NaN or +infinity, or with an excluded item that is not there, gets scores NaN and ids
// -1; so does every user where a code lies outside its level.
#include "code_sums.cuh"
#include "item_lists.cuh"

constexpr int scan_threads = 256, scan_rounds = 4;  // items of a thread between two looks at the buffers

struct TopkCodeSums {  // python/genrec_fast/ops/_cuda_code_sums.py writes the same
  CodeSums sums;
  const unsigned char* allowed;  // user b may find item n where allowed[b * allowed_stride + n]; null: all
  ItemLists excluded;
  long long allowed_stride;
  long long k, parts, capacity;  // at least k + scan_rounds * scan_threads, or as many as a part has items
  Key* buffers;                  // [users, parts, capacity]
  Key* found;                    // [users, parts, k], 0 behind the last
  Key* sorted;                   // [users, k]
  int* wrong;                    // [users + 1], 0 before; the last: a code is wrong
};

template <class Code, int Users, bool Staged>
DEVICE_INLINE void scan_items(const TopkCodeSums& search) {
  __shared__ SelectScratch scratch;
  __shared__ unsigned counts[Users];
  DEVICE_SHARED(float, staged);
  const CodeSums& sums = search.sums;
  const int t = static_cast<int>(threadIdx.x);
  const long long part = blockIdx.x % search.parts, first_user = blockIdx.x / search.parts * Users;
  const int users = static_cast<int>(sums.users - first_user < Users ? sums.users - first_user : Users);
  const long long first = sums.num_items * part / search.parts, end = sums.num_items * (part + 1) / search.parts;
  const float* const rows = sums.logprobs + first_user * sums.width;
  Key limits[Users];
#pragma unroll
  for (int u = 0; u < Users; ++u) {
    limits[u] = 0;
    bool wrong = false;
    for (long long at = t; (Staged || part == 0) && at < sums.width; at += scan_threads) {
      const float x = u < users ? rows[u * sums.width + at] : 0.0f;
      wrong = wrong || !is_score(x);
      if (Staged) staged[at * Users + u] = x;
    }
    if (wrong) atomicOr(search.wrong + first_user + u, 1);
    if (t == u) counts[u] = 0;
  }
  __syncthreads();

  const auto score_at = [&](long long place, int u) {
    return Staged ? staged[place * Users + u] : __ldg(rows + place);
  };
  const auto buffer_of = [&](int u) {
    return search.buffers + ((first_user + u) * search.parts + part) * search.capacity;
  };
  const auto cut = [&](int u) {
    const long long count = counts[u];
    const Key floor = floor_of(buffer_of(u), count, static_cast<unsigned>(search.k), 0, scratch);
    keep_from(floor, buffer_of(u), count, scratch);  // ends with a barrier: all have read the count
    if (t == 0) counts[u] = static_cast<unsigned>(search.k);
    limits[u] = floor;
  };

  for (long long from = first; from < end; from += scan_rounds * scan_threads) {
    for (int round = 0; round < scan_rounds; ++round) {
      const long long item = from + round * scan_threads + t;
      if (item >= end) break;
      float totals[Users];
      if (!sum_codes<Code>(sums, item, totals, score_at)) {
        atomicOr(search.wrong + sums.users, 1);
        continue;
      }
#pragma unroll
      for (int u = 0; u < Users; ++u) {
        const Key key = key_of_sum(totals[u], item);
        const long long user = first_user + u;
        if (u >= users || key <= limits[u]) continue;
        if (search.allowed && !search.allowed[user * search.allowed_stride + item]) continue;
        if (!is_listed(search.excluded, user, item)) buffer_of(u)[atomicAdd(counts + u, 1u)] = key;
      }
    }
    __syncthreads();
#pragma unroll
    for (int u = 0; u < Users; ++u)
      if (counts[u] > search.k && counts[u] + scan_rounds * scan_threads > search.capacity) cut(u);
    __syncthreads();
  }
#pragma unroll
  for (int u = 0; u < Users; ++u) {
    if (u >= users) continue;
    if (counts[u] > search.k) cut(u);
    __syncthreads();
    Key* const found = search.found + ((first_user + u) * search.parts + part) * search.k;
    for (long long i = t; i < search.k; i += scan_threads) found[i] = i < counts[u] ? buffer_of(u)[i] : 0;
  }
}

// No answer can be given.
DEVICE_INLINE bool is_wrong(const TopkCodeSums& search, long long user) {
  if (search.wrong[user] || search.wrong[search.sums.users]) return true;
  return is_wrong_list(search.excluded, user, search.sums.num_items);
}

// bases[first ..] from the launch's own arguments: nothing is copied to the card.
extern "C" __global__ void topk_code_sums_bases(Bases some, int first, int count, int* bases) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    bases[first + i] = some.at[i];
}

// The tensor of each says the card.
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_uint8_1(TopkCodeSums search, const float*) {
  scan_items<unsigned char, 1, true>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_uint8_2(TopkCodeSums search, const float*) {
  scan_items<unsigned char, 2, true>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_uint8_4(TopkCodeSums search, const float*) {
  scan_items<unsigned char, 4, true>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_uint8_far(TopkCodeSums search, const float*) {
  scan_items<unsigned char, 1, false>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_int32_1(TopkCodeSums search, const float*) {
  scan_items<int, 1, true>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_int32_2(TopkCodeSums search, const float*) {
  scan_items<int, 2, true>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_int32_4(TopkCodeSums search, const float*) {
  scan_items<int, 4, true>(search);
}
extern "C" __global__ void __launch_bounds__(256, 3) topk_code_sums_scan_int32_far(TopkCodeSums search, const float*) {
  scan_items<int, 1, false>(search);
}

extern "C" __global__ void __launch_bounds__(1024)
    topk_code_sums_best(TopkCodeSums search, float* scores, long long* ids) {
  __shared__ BestScratch scratch;
  const long long user = blockIdx.x, count = search.parts * search.k;
  const bool wrong = is_wrong(search, user);
  const Best best = best_of(search.found + user * count, count, search.k, search.sorted + user * search.k, scratch);
  for (long long i = threadIdx.x; i < search.k; i += blockDim.x) {
    const bool there = i < best.count && !wrong;
    scores[user * search.k + i] = wrong ? not_a_number() : there ? score_in(~best.keys[i]) : negative_infinity();
    ids[user * search.k + i] = there ? id_in(~best.keys[i]) : -1;
  }
}
