// The body of trie_step, compiled once per instruction set. The twin, ops/reference/trie_step.py, is the specification.
#include <cmath>
#include <cstdint>

#include "core/vec.h"
#include "ops/trie/trie_step.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr float negative_infinity = -HUGE_VALF;
constexpr float largest = 3.402823466e38f;
// A row's highest logit between these needs no shift: 65536 of e^70 are no overflow, and e^-86 is nothing to e^-40.
constexpr float least_plain = -40.0f, most_plain = 70.0f;

// 2^(j / 32) for j in [0, 32) as bits, less j << 18: with n << 18 added, an entry n mod 32 becomes 2^(n / 32).
struct Powers {
  alignas(64) std::uint32_t bits[32] = {};
  constexpr Powers() {
    double power = 1.0;
    for (std::uint32_t j = 0; j < 32; ++j, power *= 1.0218971486541166)
      bits[j] = __builtin_bit_cast(std::uint32_t, static_cast<float>(power)) - (j << 18);
  }
};
constexpr Powers powers;

// e^x for x <= 88, exactly 1 at 0; below -86 what it is there (4e-38). NaN gives NaN. For every float32 of [-86, 88],
// `fused` in float64 gives what fused instructions give: all of them were tried (tests/ops/test_trie_step.py).
inline Vec exp_of(const Vec& any) {
  const Vec x = greater(fill(-86.0f), any);
  const Vec round = fill(393216.0f);  // leaves n, the nearest whole number of 32nds, in the low bits of the sum
  const Vec counts = fused(x, fill(1.44269502162933349609375f), round);
  const Vec r = fused(counts - round, fill(-0.693147182464599609375f), x);
  const Vec power = look_up_power(powers.bits, counts);
  // e^r - 1; r / 2 is exact, so this sum may be fused or not.
  const Vec rest = r * multiply_add(r, fill(0.5f), fill(1.0000146627426147f));
  return fused(power, rest, power);
}

// Natural logarithm of x >= 1, relative error below 1e-12. Short chains: the next row's exponentials begin before it
// ends.
inline double log_of(double x) {
  constexpr std::uint64_t sqrt_half = 0x3fe6a09e667f3bcdu;
  const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, x), above = bits - sqrt_half;
  const auto exponent = static_cast<double>(static_cast<std::int64_t>(above >> 52));
  const double mantissa =
      __builtin_bit_cast(double, bits - (above & 0xfff0000000000000u));  // root of 1/2 to its double
  const double z = (mantissa - 1) / (mantissa + 1), square = z * z, fourth = square * square;
  const double first = 1 + square * (1.0 / 3), second = 1.0 / 5 + square * (1.0 / 7);
  const double third = 1.0 / 9 + square * (1.0 / 11) + fourth * (1.0 / 13);
  return (z * 2) * (first + fourth * (second + fourth * third)) + exponent * 0.6931471805599453;
}

// A row of float32 logits: whole groups of 16 stand in `data`, the rest, padded with -inf, in `tail`.
struct Row {
  const float* data;
  const float* tail;
  std::int64_t size, whole;  // whole: size rounded down to a multiple of 16
};

inline Row split(const float* data, std::int64_t size, float* tail) {
  const std::int64_t whole = size / lanes * lanes;
  for (std::int64_t i = 0; i < lanes; ++i) tail[i] = whole + i < size ? data[whole + i] : negative_infinity;
  return {data, tail, size, whole};
}

struct Highest {
  Vec value = fill(negative_infinity);
  Mask nan = 0;
  void add(const Vec& a, const Vec& b) {
    nan |= unordered(a, b);
    value = greater(value, greater(a, b));
  }
  float result() const { return nan ? float_of(0x7fc00000u) : maximum(value); }
};

// The maximum of a row; NaN if it holds one.
float highest_of(const Row& row) {
  Highest highest;
  std::int64_t i = 0;
  for (; i + 2 * lanes <= row.whole; i += 2 * lanes) highest.add(load(row.data + i), load(row.data + i + lanes));
  const Vec tail = load(row.tail);
  highest.add(i < row.whole ? load(row.data + i) : tail, tail);
  return highest.result();
}

// Converts 16-bit logits into `out` [whole + 16], the last 16 of them padded with -inf as in `split`.
template <Vec (*Load)(const std::uint16_t*)>
void convert(const std::uint16_t* in, std::int64_t size, float* out) {
  std::int64_t i = 0;
  for (; i + lanes <= size; i += lanes) store(out + i, Load(in + i));
  std::uint16_t rest[lanes] = {};
  for (std::int64_t j = i; j < size; ++j) rest[j - i] = in[j];
  store(out + i, Load(rest));
  for (std::int64_t j = size; j < i + lanes; ++j) out[j] = negative_infinity;
}

// Sum of e^(x - shift), in 16 lanes, and the highest x that is not a NaN. NaN if the row holds one and no x - shift is
// above 88.
struct Sum {
  float total, highest;
};

template <bool shifted>
Sum sum_of(const Row& row, float shift) {
  Vec total = fill(0.0f), highest = fill(negative_infinity);
  const auto add = [&](const Vec& x) {
    highest = greater(x, highest);
    total = total + exp_of(shifted ? x - fill(shift) : x);
  };
  for (std::int64_t i = 0; i < row.whole; i += lanes) add(load(row.data + i));
  if (row.whole < row.size) add(load(row.tail));
  return {sum(total), maximum(highest)};
}

// log(sum of e^x) and the highest x; both NaN if the row holds a NaN or +inf, both -inf if it holds nothing else.
struct LogSum {
  float value, highest;
};

LogSum log_sum_exp(const Row& row) {
  // One pass, for which nothing need be known of the row: all but strange rows have their highest within bounds in
  // which no sum overflows and nothing that counts is lost.
  Sum found = sum_of<false>(row, 0.0f);
  const float highest = found.highest;
  float shift = 0.0f;
  if (!(highest >= least_plain && highest <= most_plain) && highest >= -largest) {
    shift = highest;
    found = sum_of<true>(row, shift);
  }
  if (!(found.total <= largest)) return {found.total, found.total};
  if (highest == negative_infinity) return {highest, highest};
  // Not log(total) + shift: a row of one code has its logit to the bit, and none a sum below its highest.
  float own[lanes];
  store(own, exp_of(fill(highest - shift)));
  const double ratio = static_cast<double>(found.total) / static_cast<double>(own[0]);
  return {highest + static_cast<float>(log_of(ratio)), highest};
}

// Unsigned order of the result = order of finite scores.
inline std::uint32_t ordered(float score) {
  const std::uint32_t bits = bits_of(score);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Whether any row below the edge passes the filter.
bool alive(const TrieStepArgs& args, std::int64_t user, std::int64_t edge) {
  const RowFilter& filter = args.filter;
  std::int64_t low = edge, high = edge + 1;
  for (int l = 1; l < args.trie.num_levels; ++l) {
    low = offset_at(args.trie.levels[l].child, low);
    high = offset_at(args.trie.levels[l].child, high);
    if (low < 0 || low >= high || high > args.trie.levels[l].num_edges) return false;
  }
  std::int64_t count = high - low;
  if (filter.bits) {
    const std::int64_t base = filter.users > 1 ? user * filter.words : 0;
    const auto rank = [&](std::int64_t row) {
      const std::int64_t word = base + (row >> 6);
      return std::int64_t{filter.ranks[word]} + count_bits(filter.bits[word] & ((std::uint64_t{1} << (row & 63)) - 1));
    };
    count = rank(high) - rank(low);
  }
  if (filter.excluded && count > 0) {
    const std::int64_t begin = filter.excluded_offsets[user], end = filter.excluded_offsets[user + 1];
    const auto before = [&](std::int64_t row) {
      std::int64_t first = begin, length = end - begin;
      while (length > 0) {
        const std::int64_t half = length >> 1;
        if (filter.excluded[first + half] < row) {
          first += half + 1;
          length -= half + 1;
        } else {
          length = half;
        }
      }
      return first;
    };
    count -= before(high) - before(low);
  }
  return count > 0;
}

// One beam's children, offered to the list.
struct Beam {
  const TrieStepArgs& args;
  CandidateList& list;
  std::int64_t user;
  EdgeRange range;
  float score;         // of the beam
  float normaliser;    // log-sum-exp
  std::uint64_t flat;  // of its code 0
  bool filtered;       // children must be checked against the filter

  float score_of(float logit) const { return (score + (logit - normaliser)) + 0.0f; }

  void offer(float value, std::int64_t code, std::int64_t edge) {
    const std::uint64_t key =
        static_cast<std::uint64_t>(ordered(value)) << 32 | static_cast<std::uint32_t>(~(flat + code));
    if (key <= list.floor || (filtered && !alive(args, user, edge))) return;
    list.entries[list.count++] = {key, edge};
    if (list.count == list.capacity) cut(list);
  }

  Vec scores_of(const Vec& logits) const { return (fill(score) + (logits - fill(normaliser))) + fill(0.0f); }

  // All K codes are children: code c is edge begin + c.
  void scan_all(const Row& row) {
    for (std::int64_t i = 0; i < row.size; i += lanes) {
      const Vec values = scores_of(load(i < row.whole ? row.data + i : row.tail));
      Mask mask = at_least(values, fill(list.floor_score));
      if (mask == 0) continue;
      float lane[lanes];
      store(lane, values);
      for (; mask; mask &= mask - 1) {
        const int j = lowest(mask);
        offer(lane[j], i + j, range.begin + i + j);
      }
    }
  }

  // Reads the logits of the children by their codes.
  template <typename Token>
  void gather_children(const float* row, const Token* tokens) {
    const auto last = static_cast<std::uint32_t>(args.codes - 1);
    std::int64_t edge = range.begin;
    for (; edge + lanes <= range.end; edge += lanes) {
      const Vec values = scores_of(gather(row, tokens + edge, last));
      Mask mask = at_least(values, fill(list.floor_score));
      if (mask == 0) continue;
      float lane[lanes];
      store(lane, values);
      for (; mask; mask &= mask - 1) {
        const int j = lowest(mask);
        offer(lane[j], tokens[edge + j], edge + j);
      }
    }
    for (; edge < range.end; ++edge) {
      const std::uint32_t code = tokens[edge] < last ? tokens[edge] : last;
      const float value = score_of(row[code]);
      if (value >= list.floor_score) offer(value, code, edge);
    }
  }

  // Scans the row for codes above the floor, child or not; gives up (false) when looking them up would cost more than
  // gathering the children.
  bool scan_and_look_up(const Row& row, std::uint32_t* survivors, std::int64_t most) {
    std::int64_t count = 0;
    const Vec floor = fill(list.floor_score);
    for (std::int64_t i = 0; i < row.size; i += lanes) {
      Mask mask = at_least(scores_of(load(i < row.whole ? row.data + i : row.tail)), floor);
      if (mask == 0) continue;
      for (; mask; mask &= mask - 1) survivors[count++] = static_cast<std::uint32_t>(i + lowest(mask));
      if (count > most) return false;
    }
    for (std::int64_t s = 0; s < count; ++s) {
      const std::int64_t code = survivors[s];
      const std::int64_t edge = find_edge(args.trie.levels[0], range, code);
      if (edge >= 0) offer(score_of(row.data[code]), code, edge);
    }
    return true;
  }
};

// Nodes with at least 1/6 of all codes as children are scanned: a gathered logit costs what 10 scanned ones do, a
// looked-up code what 16 gathered ones do.
constexpr std::int64_t scan_share = 6, look_up_cost = 16;

void extend(Beam& beam, const Row& row, const TrieStepScratch& scratch) {
  const TrieLevel& level = beam.args.trie.levels[0];
  const std::int64_t fan_out = beam.range.end - beam.range.begin;
  if (fan_out == row.size) return beam.scan_all(row);
  if (fan_out * scan_share >= row.size && beam.list.floor > 0 &&
      beam.scan_and_look_up(row, scratch.survivors, fan_out / look_up_cost))
    return;
  if (level.token_width == 1)
    beam.gather_children(row.data, static_cast<const std::uint8_t*>(level.tokens));
  else
    beam.gather_children(row.data, static_cast<const std::uint16_t*>(level.tokens));
}

// normalize="valid": the log-sum-exp runs over the children that pass the filter.
void extend_valid(Beam& beam, const Row& row, const TrieStepScratch& scratch) {
  const TrieLevel& level = beam.args.trie.levels[0];
  std::int64_t count = 0;
  for (std::int64_t edge = beam.range.begin; edge < beam.range.end; ++edge) {
    if (beam.filtered && !alive(beam.args, beam.user, edge)) continue;
    const std::int64_t token = token_at(level, edge);
    scratch.values[count] = row.data[token < row.size ? token : row.size - 1];
    scratch.edges[count++] = edge;
  }
  float tail[lanes];
  const Row children = split(scratch.values, count, tail);
  const LogSum sum = log_sum_exp(children);
  if (sum.highest == negative_infinity) return;
  beam.normaliser = sum.value;
  beam.filtered = false;
  for (std::int64_t i = 0; i < count; ++i) {
    const float value = beam.score_of(children.data[i]);
    if (value >= beam.list.floor_score) beam.offer(value, token_at(level, scratch.edges[i]), scratch.edges[i]);
  }
}

}  // namespace

TrieStepFault trie_step_beams(const TrieStepArgs& args, std::int64_t user, std::int64_t first, std::int64_t last,
                              const TrieStepScratch& scratch, CandidateList& list, std::int64_t* where) {
  const TrieLevel& level = args.trie.levels[0];
  const std::int32_t* nodes = args.nodes + user * args.beams;
  const float* scores = args.scores + user * args.beams;
  const auto child = [&](std::int64_t beam) -> std::int64_t {  // where the node's children begin, if it is one
    return beam < last && nodes[beam] >= 0 && nodes[beam] < level.num_nodes ? nodes[beam] : -1;
  };
  for (std::int64_t beam = first; beam < last; ++beam) {
    *where = beam;
    // Nodes lie far apart in memory: their offsets are asked for four beams ahead, their tokens two.
    if (const std::int64_t node = child(beam + 4); node >= 0) {
      prefetch(level.child.bases + (node >> offset_block_bits));
      prefetch(static_cast<const char*>(level.child.deltas) + node * level.child.width);
    }
    if (const std::int64_t node = child(beam + 2); node >= 0)
      prefetch(static_cast<const char*>(level.tokens) + edges_of(level, node).begin * level.token_width);

    const std::int64_t node = nodes[beam];
    if (node == -1) continue;
    if (node < -1 || node >= level.num_nodes) return TrieStepFault::node;
    if (!(scores[beam] <= largest)) return TrieStepFault::score;
    if (scores[beam] == negative_infinity) continue;

    const std::int64_t start = user * args.user_stride + beam * args.beam_stride;
    float tail[lanes];
    Row row;
    if (args.type == LogitType::float32) {
      row = split(static_cast<const float*>(args.logits) + start, args.codes, tail);
    } else {
      const std::uint16_t* in = static_cast<const std::uint16_t*>(args.logits) + start;
      if (args.type == LogitType::bfloat16)
        convert<load_bfloat16>(in, args.codes, scratch.row);
      else
        convert<load_half>(in, args.codes, scratch.row);
      const std::int64_t whole = args.codes / lanes * lanes;
      row = {scratch.row, scratch.row + whole, args.codes, whole};
    }
    // logit - log-sum-exp is at most 0: below the floor already, no child can be kept.
    const bool hopeless = scores[beam] < list.floor_score;
    LogSum sum{0.0f, 0.0f};
    if (hopeless || args.valid_only || args.log_sums)
      sum.highest = highest_of(row);
    else
      sum = log_sum_exp(row);
    if (!(sum.highest <= largest)) return TrieStepFault::logit;
    if (hopeless || sum.highest == negative_infinity) continue;

    EdgeRange range = edges_of(level, node);
    if (range.end - range.begin > args.codes) range = {0, 0};  // more children than codes: not a trie
    const bool filtered = args.filter.bits || args.filter.excluded;
    const std::uint64_t flat = static_cast<std::uint64_t>(beam) * static_cast<std::uint64_t>(args.codes);
    Beam current{args, list, user, range, scores[beam], 0.0f, flat, filtered};
    if (args.valid_only) {
      extend_valid(current, row, scratch);
      continue;
    }
    if (args.log_sums) {
      const float given = args.log_sums[user * args.beams + beam];
      if (!(given <= largest)) return TrieStepFault::log_sum;
      current.normaliser =
          given > sum.highest ? given : sum.highest;  // rounding must not raise a score above its beam's
    } else {
      current.normaliser = sum.value;
    }
    if (current.score_of(sum.highest) >= list.floor_score) extend(current, row, scratch);
  }
  return TrieStepFault::none;
}

}  // namespace genrec::GENREC_ISA
