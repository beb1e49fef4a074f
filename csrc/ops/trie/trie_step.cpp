#include "ops/trie/trie_step.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "ops/trie/trie_shape.h"

// Adds the candidates of beams [first, last) of a user. Returns the fault of the first faulty beam and sets *where.
GENREC_PER_ISA(TrieStepFault trie_step_beams(const TrieStepArgs& args, std::int64_t user, std::int64_t first,
                                             std::int64_t last, const TrieStepScratch& scratch, CandidateList& list,
                                             std::int64_t* where);)

namespace genrec {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

bool better(const Candidate& a, const Candidate& b) { return a.key > b.key; }

float score_in(std::uint64_t key) {
  const auto high = static_cast<std::uint32_t>(key >> 32);
  const std::uint32_t bits = high >> 31 ? high & 0x7fffffffu : ~high;
  float score;
  static_assert(sizeof(score) == sizeof(bits));
  std::copy_n(reinterpret_cast<const std::byte*>(&bits), sizeof(bits), reinterpret_cast<std::byte*>(&score));
  return score;
}

// One task's memory: never initialised, so that only what is used is touched.
class Workspace {
 public:
  explicit Workspace(const TrieStepArgs& args) {
    // Four times what is kept: a cut costs about as much as the pushes between two of them. No more can be kept than
    // there are codes of beams, whatever the number that is asked for.
    const std::int64_t codes = args.codes;
    const bool valid_only = args.valid_only;
    list.keep = std::min(args.num_beams, args.beams * codes) + 1;
    list.capacity = std::max<std::int64_t>(4 * list.keep, 256);
    const std::int64_t row = codes + 32;
    const std::int64_t bytes = list.capacity * 16 + row * 4 * 3 + (valid_only ? codes * 8 : 0);
    memory_.reset(new std::byte[static_cast<std::size_t>(bytes)]);
    std::byte* next = memory_.get();
    const auto take = [&](std::int64_t size) { return std::exchange(next, next + size); };
    list.entries = reinterpret_cast<Candidate*>(take(list.capacity * 16));
    scratch.edges = valid_only ? reinterpret_cast<std::int64_t*>(take(codes * 8)) : nullptr;
    scratch.row = reinterpret_cast<float*>(take(row * 4));
    scratch.values = reinterpret_cast<float*>(take(row * 4));
    scratch.survivors = reinterpret_cast<std::uint32_t*>(take(row * 4));
  }

  CandidateList list{nullptr, 0, 0, 0, 0, std::numeric_limits<float>::lowest()};
  TrieStepScratch scratch{};

 private:
  std::unique_ptr<std::byte[]> memory_;
};

[[noreturn]] void refuse(TrieStepFault fault, const TrieStepArgs& args, std::int64_t user, std::int64_t beam) {
  const std::int64_t at = user * args.beams + beam;
  const std::string where = message(" for user ", user, ", beam ", beam);
  switch (fault) {
    case TrieStepFault::node:
      throw ValueError(message("trie_step: nodes must be -1 or in [0, ", args.trie.levels[0].num_nodes - 1, "], got ",
                               args.nodes[at], where));
    case TrieStepFault::score:
      throw ValueError(message("trie_step: scores must not be NaN or +inf, got ", args.scores[at], where));
    case TrieStepFault::log_sum:
      throw ValueError(message("trie_step: log_sums must not be NaN or +inf, got ", args.log_sums[at], where));
    default:
      throw ValueError(message("trie_step: logits must not be NaN or +inf", where));
  }
}

void search(const TrieStepArgs& args, std::int64_t user, std::int64_t first, std::int64_t last, Workspace& space) {
  std::int64_t beam = 0;
  const TrieStepFault fault =
      GENREC_DISPATCH(trie_step_beams(args, user, first, last, space.scratch, space.list, &beam));
  if (fault != TrieStepFault::none) refuse(fault, args, user, beam);
}

// Writes the best of `entries` in order; they are rearranged.
void finish(const TrieStepArgs& args, const TrieStepOutputs& out, std::int64_t user, Candidate* entries,
            std::int64_t count) {
  const std::int64_t kept = std::min(args.num_beams, count);
  if (count > args.num_beams) {
    std::nth_element(entries, entries + args.num_beams, entries + count, better);
    out.bound[user] = score_in(entries[args.num_beams].key);
  } else {
    out.bound[user] = -infinity;
  }
  std::sort(entries, entries + kept, better);
  const std::int64_t start = user * args.num_beams;
  for (std::int64_t i = 0; i < kept; ++i) {
    const auto flat = static_cast<std::uint32_t>(~entries[i].key), codes = static_cast<std::uint32_t>(args.codes);
    out.scores[start + i] = score_in(entries[i].key);
    out.codes[start + i] = static_cast<std::int32_t>(flat % codes);
    out.parents[start + i] = static_cast<std::int32_t>(flat / codes);
    out.nodes[start + i] = static_cast<std::int32_t>(entries[i].edge);
  }
  std::fill(out.scores + start + kept, out.scores + start + args.num_beams, -infinity);
  std::fill(out.codes + start + kept, out.codes + start + args.num_beams, 0);
  std::fill(out.parents + start + kept, out.parents + start + args.num_beams, 0);
  std::fill(out.nodes + start + kept, out.nodes + start + args.num_beams, -1);
}

}  // namespace

void cut(CandidateList& list) {
  std::nth_element(list.entries, list.entries + list.keep - 1, list.entries + list.count, better);
  list.count = list.keep;
  list.floor = list.entries[list.keep - 1].key;
  list.floor_score = score_in(list.floor);
}

void trie_step(const TrieStepArgs& args, const TrieStepOutputs& out, int num_threads) {
  check_trie("trie_step", args.trie);
  check_filter("trie_step", args.filter, args.trie, args.users);
  check(args.num_beams >= 1 && args.num_beams < std::int64_t{1} << 31,
        "trie_step: num_beams must be in [1, 2^31), got ", args.num_beams);
  check(args.codes >= 1 && args.codes <= max_code + 1 && args.beams < std::int64_t{1} << 32 &&
            args.beams * args.codes < std::int64_t{1} << 32,
        "trie_step: W * K must be below 2^32 and K at most 65536, got ", args.beams, " * ", args.codes);
  if (args.users == 0) return;
  // A logit takes about 0.25 ns; below 100 us of work a second thread does not pay.
  const std::int64_t work = args.users * args.beams * args.codes;
  const std::int64_t threads = work < 400'000 ? 1 : std::max(num_threads, 1);
  if (args.users >= threads) {
    const std::int64_t tasks = std::min<std::int64_t>(args.users, threads == 1 ? 1 : threads * 4);
    parallel_for(tasks, static_cast<int>(threads), [&](std::int64_t task) {
      Workspace space(args);
      for (std::int64_t user = task * args.users / tasks; user < (task + 1) * args.users / tasks; ++user) {
        space.list.count = 0;
        space.list.floor = 0;
        space.list.floor_score = std::numeric_limits<float>::lowest();
        search(args, user, 0, args.beams, space);
        finish(args, out, user, space.list.entries, space.list.count);
      }
    });
    return;
  }
  // Fewer users than threads: chunks of a user's beams are searched apart, their best joined. Keys are unique, so the
  // result does not depend on the chunks.
  const std::int64_t chunks = std::min(args.beams, (threads + args.users - 1) / args.users);
  std::vector<std::vector<Candidate>> found(static_cast<std::size_t>(args.users * chunks));
  parallel_for(args.users * chunks, static_cast<int>(threads), [&](std::int64_t task) {
    const std::int64_t user = task / chunks, chunk = task % chunks;
    Workspace space(args);
    search(args, user, chunk * args.beams / chunks, (chunk + 1) * args.beams / chunks, space);
    if (space.list.count > space.list.keep) cut(space.list);
    found[static_cast<std::size_t>(task)].assign(space.list.entries, space.list.entries + space.list.count);
  });
  for (std::int64_t user = 0; user < args.users; ++user) {
    std::vector<Candidate> all;
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::vector<Candidate>& part = found[static_cast<std::size_t>(user * chunks + chunk)];
      all.insert(all.end(), part.begin(), part.end());
    }
    finish(args, out, user, all.data(), static_cast<std::int64_t>(all.size()));
  }
}

}  // namespace genrec
