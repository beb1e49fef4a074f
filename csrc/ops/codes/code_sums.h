// Items written as codes, scored by the sum of a user's scores of their codes.
#pragma once
#include <cstdint>

namespace genrec {

struct CodeSums {
  const float* logprobs;  // [num_users, width]; not NaN, below infinity
  std::int64_t num_users, width;
  const void* item_codes;  // [num_items, num_levels], uint8 or int32
  int code_bytes;          // 1 or 4
  std::int64_t num_items, num_levels;
  const std::int64_t* bases;  // [num_levels + 1]: level l's scores are logprobs[bases[l] .. bases[l + 1]) of a user
};

// score(b, n) = ((0 + logprobs[b][bases[0] + codes[n][0]]) + logprobs[b][bases[1] + codes[n][1]]) + ..., in float32,
// level by level: equal bits on every instruction set.

struct CodeEntry {
  float score;
  std::int32_t id;
};
inline bool better(const CodeEntry& a, const CodeEntry& b) {
  return a.score != b.score ? a.score > b.score : a.id < b.id;
}

constexpr std::int64_t check_levels = 8;  // a sum is held against its user's bars after every so many levels

// One user's best so far.
struct CodeBest {
  CodeEntry* entries;
  std::int64_t count, capacity;
  // What is below bars[j * stride] after (j + 1) * check_levels levels ends below the threshold, which is the last one,
  // bars[num_bars * stride]: what scores below it is not among the best.
  float* bars;
  std::int64_t stride;
  const std::uint8_t* allowed;  // [num_items], or null
  const std::int64_t* exclude;  // ascending ids, or null
  std::int64_t num_excluded;
};

// Some users' search through some items, by one thread.
struct CodeScan {
  const CodeSums* sums;
  std::int64_t first_user, num_users;  // at most code_lanes
  std::int64_t k;
  CodeBest* best;         // [num_users]
  const double* rests;    // [num_users, num_bars + 1]: what the levels behind each bar can add, then the rounding
  std::int64_t num_bars;  // num_levels / check_levels
  const float* turned;    // [width, code_lanes]: the users' scores side by side; null: users go one by one
  const float* bars;      // [num_bars + 1, code_lanes], with `turned`
  void (*compact)(CodeScan& scan, std::int64_t user);  // makes room among a user's entries
};

constexpr std::int64_t code_lanes = 16;  // users of one pass over the items

// Fills `rests` of one user, [num_bars + 1].
void code_rests(const CodeSums& sums, const float* logprobs, std::int64_t num_bars, double* rests);
// Sets a user's threshold and the bars that follow from it.
void set_bars(CodeBest& best, float threshold, const double* rests, std::int64_t num_bars);

// Throws ValueError of `op` where a score is NaN or infinity.
void check_logprobs(const char* op, const CodeSums& sums);
// Throws ValueError of `op`, which names the first wrong code among items [first, last).
[[noreturn]] void refuse_codes(const char* op, const CodeSums& sums, std::int64_t first, std::int64_t last);

}  // namespace genrec
