// One level of a trie-constrained beam search, as ops/reference/trie_step.py defines it, bit by bit. Four kernels:
//
//   rows    a block per beam: its log-sum-exp; its children in groups, and the highest key of each group
//   floor   a block per user: a key that more groups reach than are wanted, so that nothing below it can be kept
//   gather  a block per beam: the children that reach the floor, from the groups that do
//   order   each of these finds its place by counting the keys above it, and is written there
//
// A child's key orders by score, then by lower beam * K + code, and is unique: so neither the groups nor the order in
// which children are gathered show in the result. A user with a node that is not there, or a NaN or +inf among scores,
// log_sums and logits of live beams, gets scores NaN, nodes -2 (which the next level refuses again) and bound +inf.
#include "log_sum_exp.cuh"
#include "row_filter.cuh"
#include "select.cuh"

struct UserSearch {
  Key floor;
  Key count;  // gathered
  Key wrong;  // not 0: a value that the op refuses
};

struct TrieStep {  // python/genrec_fast/ops/_cuda_trie_step.py writes the same
  Trie trie;       // its first level is the one whose codes are chosen
  RowFilter filter;
  const void* logits;  // [B, W, K], last stride 1
  long long user_stride, beam_stride;
  long long users, beams, codes;
  const int* nodes;       // [B, W]
  const float* scores;    // [B, W]
  const float* log_sums;  // [B, W] or null
  int valid_only;
  int groups;  // of a beam: a power of two
  long long num_beams;
  unsigned keep;       // num_beams and the one for the bound, or all codes of beams
  unsigned room;       // groups that may reach the floor beyond those
  Key* highest;        // [B, W, groups]
  Key* keys;           // [B, capacity]
  int* edges;          // [B, capacity]
  long long capacity;  // at least as many as may be gathered
  long long direct;    // gathered by a user, up to which `parts` blocks order them without a cut
  int parts;           // blocks of a user in `order`
  float* out_scores;
  int* out_codes;
  int* out_parents;
  int* out_nodes;
  float* out_bound;
};

// A live beam's children.
template <class Element>
struct Children {
  const TrieLevel& level;
  const typename Element::Type* row;  // of logits
  EdgeRange range;
  int count;
  unsigned last_code, flat;  // flat: of the beam's code 0
  float score, normaliser;   // of the beam

  // `place` of a user's beam: user * W + beam.
  DEVICE_INLINE Children(const TrieStep& step, unsigned place, float normaliser)
      : level(step.trie.levels[0]), score(step.scores[place]), normaliser(normaliser) {
    const unsigned user = place / static_cast<unsigned>(step.beams), beam = place % static_cast<unsigned>(step.beams);
    row = static_cast<const typename Element::Type*>(step.logits) + user * step.user_stride + beam * step.beam_stride;
    range = edges_of(level, step.nodes[place]);
    last_code = static_cast<unsigned>(step.codes) - 1u;
    flat = beam * static_cast<unsigned>(step.codes);
    if (range.end - range.begin > step.codes) range = {0, 0};  // more children than codes: not a trie
    count = static_cast<int>(range.end - range.begin);
  }

  DEVICE_INLINE unsigned code(int child) const {
    const unsigned found = static_cast<unsigned>(token_at(level, range.begin + child));
    return found < last_code ? found : last_code;
  }

  DEVICE_INLINE float logit(int child) const { return Element::load(row[code(child)]); }

  // 0 where the child cannot be kept.
  DEVICE_INLINE Key key(int child) const {
    const unsigned own = code(child);
    const float value = (score + (Element::load(row[own]) - normaliser)) + 0.0f;
    if (!(value >= -largest_float)) return 0;
    const unsigned bits = __float_as_uint(value);
    return static_cast<Key>(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (~(flat + own));
  }
};

// What is subtracted from the beam's logits: NaN where a value is refused, +inf where nothing can be kept.
template <class Element>
DEVICE_INLINE float normaliser_of(const TrieStep& step, unsigned beam, SumScratch& scratch, float* batches) {
  const Children<Element> children(step, beam, 0.0f);
  const float nothing = -negative_infinity(), given = step.log_sums ? step.log_sums[beam] : 0.0f;
  const int codes = static_cast<int>(step.codes);
  if (!step.valid_only && !step.log_sums) {
    float shift = 0.0f;
    Sum sum = sum_of_row<Element>(children.row, codes, shift, scratch, batches);
    if (needs_shift(sum)) {
      shift = sum.highest;
      sum = sum_of_row<Element>(children.row, codes, shift, scratch, batches);
    }
    if (sum.wrong) return not_a_number();
    return sum.highest >= -largest_float ? log_of_sum(sum, shift, scratch) : nothing;
  }
  const Sum all = highest_of_row<Element>(children.row, codes, scratch);
  if (all.wrong) return not_a_number();
  if (!(all.highest >= -largest_float)) return nothing;
  if (step.log_sums) {  // rounding must not raise a score above its beam's
    if (!(given <= largest_float)) return not_a_number();
    return given > all.highest ? given : all.highest;
  }
  const unsigned user = beam / static_cast<unsigned>(step.beams);
  const bool filtered = is_filtered(step.filter);
  const auto find = [&](int child, float& logit) {
    if (filtered && !passes(step.trie, step.filter, user, children.range.begin + child)) return false;
    logit = children.logit(child);
    return true;
  };
  float shift = 0.0f;
  Sum sum = sum_of_some(children.count, shift, scratch, batches, find);
  if (needs_shift(sum)) {
    shift = sum.highest;
    sum = sum_of_some(children.count, shift, scratch, batches, find);
  }
  return sum.highest >= -largest_float ? log_of_sum(sum, shift, scratch) : nothing;
}

// A beam's groups of children. Where a thread has none of its own, neighbouring lanes share one; else it has several.
// Children go round: the group of a child depends on its number modulo the groups (or threads, if these are more).
struct Groups {
  int lanes, rounds, threads, t;

  DEVICE_INLINE explicit Groups(int groups) : threads(static_cast<int>(blockDim.x)), t(static_cast<int>(threadIdx.x)) {
    lanes = threads > groups ? threads / groups : 1;
    rounds = groups > threads ? groups / threads : 1;
  }
  DEVICE_INLINE int first(int round) const { return round * threads + t; }  // child of this thread
  DEVICE_INLINE int step() const { return rounds * threads; }               // to its next one
  DEVICE_INLINE int group(int round) const { return first(round) / lanes; }
};

template <class Element>
DEVICE_INLINE void scan_beam(const TrieStep& step, float* normalisers) {
  __shared__ SumScratch scratch;
  DEVICE_SHARED(float, batches);
  const unsigned beam = blockIdx.x, user = beam / static_cast<unsigned>(step.beams);
  const int node = step.nodes[beam];
  const float score = step.scores[beam];
  Key* const highest = step.highest + static_cast<long long>(beam) * step.groups;
  if (threadIdx.x < 32) scratch.powers[threadIdx.x] = powers_of_two[threadIdx.x];
  __syncthreads();

  float normaliser = -negative_infinity();
  if (node != -1) {
    if (node < -1 || node >= step.trie.levels[0].child.count - 1 || !(score <= largest_float))
      normaliser = not_a_number();
    else if (score >= -largest_float)
      normaliser = normaliser_of<Element>(step, beam, scratch, batches);
  }
  if (threadIdx.x == 0) normalisers[beam] = normaliser;
  const Children<Element> children(step, beam, normaliser);
  const int count = normaliser <= largest_float ? children.count : 0;

  const bool filtered = is_filtered(step.filter);
  const Groups groups(step.groups);
  for (int round = 0; round < groups.rounds; ++round) {
    Key best = 0;
#pragma unroll 4
    for (int child = groups.first(round); child < count; child += groups.step()) {
      const Key key = children.key(child);
      if (key > best && (!filtered || passes(step.trie, step.filter, user, children.range.begin + child))) best = key;
    }
    for (int d = 1; d < groups.lanes; d <<= 1) {
      const Key other = __shfl_xor_sync(all_lanes, best, d);
      best = other > best ? other : best;
    }
    if (groups.t % groups.lanes == 0) highest[groups.group(round)] = best;
  }
}

DEVICE_INLINE void find_floor(const TrieStep& step, const float* normalisers, UserSearch* searches) {
  __shared__ SelectScratch scratch;
  const long long user = blockIdx.x;
  bool wrong = !has_whole_list(step.filter, user);
  for (long long beam = threadIdx.x; beam < step.beams; beam += blockDim.x) {
    const float normaliser = normalisers[user * step.beams + beam];
    wrong = wrong || normaliser != normaliser;
  }
  const bool any = __syncthreads_or(wrong) != 0;
  const long long count = step.beams * step.groups;
  const Key floor = any ? ~Key{0} : floor_of(step.highest + user * count, count, step.keep, step.room, scratch);
  if (threadIdx.x == 0) searches[user] = {floor, 0, any};
}

template <class Element>
DEVICE_INLINE void gather_children(const TrieStep& step, const float* normalisers, UserSearch* searches) {
  const unsigned beam = blockIdx.x, user = beam / static_cast<unsigned>(step.beams);
  const float normaliser = normalisers[beam];
  if (!(normaliser <= largest_float)) return;
  UserSearch& search = searches[user];
  const Key floor = search.floor;
  const Key* const highest = step.highest + static_cast<long long>(beam) * step.groups;
  const bool filtered = is_filtered(step.filter);
  const Groups groups(step.groups);
  for (int round = 0; round < groups.rounds; ++round) {
    if (highest[groups.group(round)] < floor) continue;
    const Children<Element> children(step, beam, normaliser);
    for (int child = groups.first(round); child < children.count; child += groups.step()) {
      const Key key = children.key(child);
      const long long edge = children.range.begin + child;
      if (key < floor || (filtered && !passes(step.trie, step.filter, user, edge))) continue;
      const long long place = static_cast<long long>(atomicAdd(&search.count, Key{1}));
      if (place >= step.capacity) continue;
      step.keys[user * step.capacity + place] = key;
      step.edges[user * step.capacity + place] = static_cast<int>(edge);
    }
  }
}

DEVICE_INLINE void write_slot(const TrieStep& step, long long user, long long slot, float score, unsigned flat,
                              int node) {
  const long long at = user * step.num_beams + slot;
  const unsigned codes = static_cast<unsigned>(step.codes);
  step.out_scores[at] = score;
  step.out_codes[at] = static_cast<int>(flat % codes);
  step.out_parents[at] = static_cast<int>(flat / codes);
  step.out_nodes[at] = node;
}

DEVICE_INLINE void order_children(const TrieStep& step, const UserSearch* searches) {
  constexpr int tile = 1024;
  __shared__ SelectScratch scratch;
  __shared__ Key others[tile];
  const long long user = blockIdx.x / step.parts, threads = blockDim.x, t = threadIdx.x;
  long long part = blockIdx.x % step.parts, parts = step.parts;
  const UserSearch search = searches[user];
  Key* const keys = step.keys + user * step.capacity;
  int* const edges = step.edges + user * step.capacity;
  long long found = static_cast<long long>(search.count);
  if (found > step.capacity) found = step.capacity;
  if (found > step.direct) {  // few groups hold many of the best: their number is cut first, by one block
    if (part != 0) return;
    parts = 1;
    found = keep_from(floor_of(keys, found, step.keep, 0, scratch), keys, edges, found, scratch);
  }
  for (long long first = part * threads; first < found; first += parts * threads) {
    const long long own = first + t;
    const Key key = own < found ? keys[own] : ~Key{0};
    long long place = 0;
    for (long long begin = 0; begin < found; begin += tile) {
      const int size = static_cast<int>(found - begin < tile ? found - begin : tile);
      __syncthreads();
      for (int i = static_cast<int>(t); i < size; i += static_cast<int>(threads)) others[i] = keys[begin + i];
      __syncthreads();
      // Keys are unique in a trie; of equal ones in what somebody wrote into, the first goes before the others.
      const long long ahead = own - begin;
      const int before = ahead < 0 ? 0 : ahead < size ? static_cast<int>(ahead) : size;
      int above = 0;
#pragma unroll 8
      for (int i = 0; i < before; ++i) above += others[i] >= key;
#pragma unroll 8
      for (int i = before; i < size; ++i) above += others[i] > key;
      place += above;
    }
    if (own >= found) continue;
    if (place < step.num_beams) write_slot(step, user, place, score_in(key), ~static_cast<unsigned>(key), edges[own]);
    if (place == step.num_beams) step.out_bound[user] = score_in(key);
  }
  const float rest = search.wrong ? not_a_number() : negative_infinity();
  for (long long slot = found + part * threads + t; slot < step.num_beams; slot += parts * threads)
    write_slot(step, user, slot, rest, 0, search.wrong ? -2 : -1);
  if (part == 0 && t == 0 && found <= step.num_beams)
    step.out_bound[user] = search.wrong ? -negative_infinity() : negative_infinity();
}

// `normalisers` [B, W]: what is subtracted from a beam's logits; NaN: refused, +inf: nothing to keep. `searches` [B].
extern "C" __global__ void __launch_bounds__(256, 4) trie_step_rows_float32(TrieStep step, float* normalisers) {
  scan_beam<Float32>(step, normalisers);
}
extern "C" __global__ void __launch_bounds__(256, 4) trie_step_rows_bfloat16(TrieStep step, float* normalisers) {
  scan_beam<Bfloat16>(step, normalisers);
}
extern "C" __global__ void __launch_bounds__(256, 4) trie_step_rows_float16(TrieStep step, float* normalisers) {
  scan_beam<Half>(step, normalisers);
}
extern "C" __global__ void __launch_bounds__(1024)
    trie_step_floor(TrieStep step, const float* normalisers, UserSearch* searches) {
  find_floor(step, normalisers, searches);
}
extern "C" __global__ void __launch_bounds__(256, 4)
    trie_step_gather_float32(TrieStep step, const float* normalisers, UserSearch* searches) {
  gather_children<Float32>(step, normalisers, searches);
}
extern "C" __global__ void __launch_bounds__(256, 4)
    trie_step_gather_bfloat16(TrieStep step, const float* normalisers, UserSearch* searches) {
  gather_children<Bfloat16>(step, normalisers, searches);
}
extern "C" __global__ void __launch_bounds__(256, 4)
    trie_step_gather_float16(TrieStep step, const float* normalisers, UserSearch* searches) {
  gather_children<Half>(step, normalisers, searches);
}
extern "C" __global__ void __launch_bounds__(128) trie_step_order(TrieStep step, const UserSearch* searches) {
  order_children(step, searches);
}
