#include "ops/draft/draft_verify.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "ops/draft/row_index.h"

namespace genrec {
namespace {

constexpr const char* op = "draft_verify";
constexpr float infinity = std::numeric_limits<float>::infinity();

class Verify {
 public:
  Verify(const DraftVerifyArgs& args, const DraftBeams& beams, int num_threads)
      : args_(args),
        now_(beams),
        num_threads_(num_threads),
        size_(args.rows.users * beams.beams),
        here_(static_cast<std::size_t>(args.rows.users)),
        nodes_(static_cast<std::size_t>(size_)),
        sums_(args.rows.log_sums == nullptr ? 0 : static_cast<std::size_t>(size_)) {
    for (std::int64_t b = 0; b < args.rows.users; ++b) index_.emplace_back(0);
  }

  void level(int level) {
    if (!chosen_here(level)) return;
    const std::int64_t users = args_.rows.users, size = args_.trie.levels[level].codebook_size;
    const std::int64_t next = args_.num_beams[level];
    const Memory logits(size_ * size * width());
    gather(size, logits.as<std::byte>());
    const auto count = static_cast<std::size_t>(users * next);
    std::vector<float> scores(count), bound(static_cast<std::size_t>(users));
    std::vector<std::int32_t> codes(count), parents(count), nodes(count);
    TrieView below{};
    below.num_levels = args_.trie.num_levels - level;
    std::copy(args_.trie.levels + level, args_.trie.levels + args_.trie.num_levels, below.levels);
    trie_step({below, args_.filter, logits.as<std::byte>(), args_.rows.type, now_.beams * size, size, users, now_.beams,
               size, nodes_.data(), now_.scores, next, args_.valid_only, sums_.empty() ? nullptr : sums_.data()},
              {scores.data(), codes.data(), parents.data(), nodes.data(), bound.data()}, num_threads_);
    for (std::int64_t b = 0; b < users; ++b)
      if (here_[static_cast<std::size_t>(b)])
        take(b, level, next, scores.data() + b * next, codes.data() + b * next, parents.data() + b * next,
             nodes.data() + b * next, bound[static_cast<std::size_t>(b)]);
  }

 private:
  std::int64_t width() const { return args_.rows.type == LogitType::float32 ? 4 : 2; }

  // Who is at this level, and had all beams read. Others' beams are none to trie_step.
  bool chosen_here(int level) {
    bool any = false;
    for (std::int64_t b = 0; b < args_.rows.users; ++b) {
      bool here = now_.levels[b] == level;
      for (std::int64_t i = b * now_.beams; here && i < (b + 1) * now_.beams; ++i)
        here = now_.nodes[i] < 0 || now_.numbers[i] >= 0;
      here_[static_cast<std::size_t>(b)] = here;
      any |= here;
      for (std::int64_t i = b * now_.beams; i < (b + 1) * now_.beams; ++i)
        nodes_[static_cast<std::size_t>(i)] = here ? now_.nodes[i] : -1;
    }
    return any;
  }

  void gather(std::int64_t size, std::byte* to) {
    const auto* from = static_cast<const std::byte*>(args_.rows.logits);
    for (std::int64_t i = 0; i < size_; ++i) {
      if (nodes_[static_cast<std::size_t>(i)] < 0) continue;
      const std::int64_t row = i / now_.beams * args_.rows.rows + now_.numbers[i];
      std::copy_n(from + row * args_.rows.codes * width(), size * width(), to + i * size * width());
      if (!sums_.empty()) sums_[static_cast<std::size_t>(i)] = args_.rows.log_sums[row];
    }
  }

  // The user's beams are these; `next` of them, and none behind.
  void take(std::int64_t b, int level, std::int64_t next, float* scores, const std::int32_t* codes,
            const std::int32_t* parents, std::int32_t* nodes, float bound) {
    const std::int64_t first = b * now_.beams, levels = args_.trie.num_levels;
    const std::int64_t own = args_.widths == nullptr ? next : std::clamp<std::int64_t>(args_.widths[b], 0, next);
    for (std::int64_t i = own; i < next; ++i) {  // what a search of the user's own width would not have kept
      bound = std::max(bound, scores[i]);
      scores[i] = -infinity, nodes[i] = -1;
    }
    const RowIndex& index = index_of(b);
    const std::vector<std::int64_t> numbers(now_.numbers + first, now_.numbers + first + now_.beams);
    const std::vector<std::int32_t> wrote(now_.codes + first * levels, now_.codes + (first + now_.beams) * levels);
    for (std::int64_t i = 0; i < now_.beams; ++i) {
      const bool live = i < next && nodes[i] >= 0;
      const std::int64_t parent = i < next ? parents[i] : 0, at = first + i;
      check(parent >= 0 && parent < now_.beams, op, ": trie must have codes in its codebooks, got a beam below beam ",
            parent);  // an altered one
      now_.above[at] = numbers[static_cast<std::size_t>(parent)];
      now_.nodes[at] = live ? nodes[i] : -1;
      now_.scores[at] = live ? scores[i] : -infinity;
      now_.numbers[at] = live ? index.find(now_.above[at], codes[i]) : -1;
      std::int32_t* const to = now_.codes + at * levels;
      if (!live) {
        std::fill_n(to, levels, 0);
        continue;
      }
      std::copy_n(wrote.data() + parent * levels, levels, to);
      to[level] = codes[i];
    }
    now_.bound[b] = std::max(now_.bound[b], bound);
    ++now_.levels[b];
  }

  // Made for those who gain a level alone.
  const RowIndex& index_of(std::int64_t b) {
    RowIndex& index = index_[static_cast<std::size_t>(b)];
    if (index.rows() == 0) {
      index = RowIndex(args_.rows.rows);
      index.read(args_.rows.parents + b * args_.rows.rows, args_.rows.wrote + b * args_.rows.rows);
    }
    return index;
  }

  const DraftVerifyArgs& args_;
  const DraftBeams& now_;
  int num_threads_;
  std::int64_t size_;
  std::vector<char> here_;
  std::vector<std::int32_t> nodes_;
  std::vector<float> sums_;
  std::vector<RowIndex> index_;
};

}  // namespace

void draft_verify(const DraftVerifyArgs& args, const DraftBeams& beams, int num_threads) {
  const int levels = args.trie.num_levels;
  for (int l = 0; l < levels; ++l) {
    check(args.num_beams[l] >= 1 && args.num_beams[l] <= beams.beams, op, ": num_beams must be in [1, ", beams.beams,
          "] as there are beams, got ", args.num_beams[l], " at level ", l);
    check(args.trie.levels[l].codebook_size <= args.rows.codes, op, ": logits must have ",
          args.trie.levels[l].codebook_size, " codes at level ", l, ", got ", args.rows.codes);
  }
  for (std::int64_t b = 0; b < args.rows.users; ++b) {
    check_rows(op, args.rows.parents + b * args.rows.rows, args.rows.wrote + b * args.rows.rows, args.rows.rows, b);
    check(beams.levels[b] >= 0 && beams.levels[b] <= levels, op, ": levels must be in [0, ", levels, "], got ",
          beams.levels[b], " for user ", b);
  }
  for (std::int64_t i = 0; i < args.rows.users * beams.beams; ++i)
    check(beams.numbers[i] >= -1 && beams.numbers[i] < args.rows.rows, op, ": numbers must be -1 or in [0, ",
          args.rows.rows, "), got ", beams.numbers[i], " for user ", i / beams.beams, ", beam ", i % beams.beams);
  if (args.rows.users == 0) return;
  Verify verify(args, beams, num_threads);
  for (int l = 0; l < levels; ++l) verify.level(l);
}

}  // namespace genrec
