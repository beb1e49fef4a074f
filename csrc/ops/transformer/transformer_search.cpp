#include "ops/transformer/transformer_search.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "ops/transformer/code_tokens.h"
#include "ops/transformer/transformer_call.h"
#include "ops/trie/trie_shape.h"

namespace genrec {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

class Search {
 public:
  explicit Search(const TransformerSearch& args) : args_(args), read_(read_stack(op, args.weights, sizes_)) {
    const TransformerStack& stack = read_.stack;
    width_ = stack.width, kept_ = 2 * stack.num_kv_heads * stack.head_width;
    check_width(op, args.weights, width_);
    check_trie(op, args.trie);
    check(args.trie.levels[0].num_nodes == 1, op, ": trie must begin with one root, got ",
          args.trie.levels[0].num_nodes, " nodes");
    check_filter(op, args.filter, args.trie, args.num_users);
    check(args.embedding_width == width_, op, ": embedding must be [V, ", width_, "], got ", args.embedding_width,
          " columns");
    const std::int64_t users = args.num_users;
    hidden_ = Memory(users * width_ * 4);
    std::copy(args.hidden, args.hidden + users * width_, hidden_.as<float>());
    scores_.assign(args.scores, args.scores + users);
    for (float score : scores_) nodes_.push_back(score > -infinity ? 0 : -1);
    chain_.assign(args.chain, args.chain + args.num_steps);
    chain_rows_.assign(args.chain_rows, args.chain_rows + args.num_steps);
    chain_floats_.assign(args.chain_floats, args.chain_floats + args.num_steps);
    ancestors_.assign(args.ancestors, args.ancestors + args.num_steps * users);
  }

  void run(const TransformerFound& out) {
    const int levels = args_.trie.num_levels;
    std::fill(out.bound, out.bound + args_.num_users, -infinity);
    for (int level = 0; level < levels; ++level) {
      choose(level, out.bound);
      if (level + 1 < levels || pays_end()) extend(level);
    }
    if (pays_end()) end();
    check(beams_ == out.width, op, ": found must have ", beams_, " beams, got room for ", out.width);
    std::copy(scores_.begin(), scores_.end(), out.scores);
    std::copy(nodes_.begin(), nodes_.end(), out.rows);
    std::copy(written_.begin(), written_.end(), out.codes);
    for (std::size_t i = 0; i < written_.size(); ++i)
      out.tokens[i] = args_.code_tokens[i % static_cast<std::size_t>(levels)][written_[i]];
  }

 private:
  static constexpr const char* op = "transformer_search";

  bool needs_sums() const { return !args_.valid_only && !args_.own_codes; }
  bool pays_end() const { return args_.end_token >= 0 && needs_sums(); }
  std::int64_t rows() const { return args_.num_users * beams_; }

  // logits [rows, last - first], and their log-sum-exp over the vocabulary.
  void score(std::int64_t first, std::int64_t last) {
    logits_ = Memory(rows() * (last - first) * 4);
    sums_.resize(static_cast<std::size_t>(rows()));
    transformer_head({args_.weights, hidden_.as<float>(), rows(), first, last, logits_.as<float>(),
                      needs_sums() ? sums_.data() : nullptr, args_.num_threads});
  }

  // The best children of the beams, and what they have written.
  void choose(int level, float* bound) {
    const TrieLevel& here = args_.trie.levels[level];
    const CodeTokens codes(op, args_.code_tokens[level], here.codebook_size, read_.stack.head_size);
    score(codes.first, codes.last);
    logits_ = codes.picked(std::move(logits_), rows());
    const std::int64_t users = args_.num_users, next = std::min(args_.num_beams, beams_ * here.num_edges);
    const auto size = static_cast<std::size_t>(users * next);
    std::vector<float> scores(size), pruned(static_cast<std::size_t>(users));
    std::vector<std::int32_t> chosen(size), nodes(size);
    parents_.resize(size);
    TrieView below{};  // without a filter no deeper level is read
    below.num_levels = args_.trie.num_levels - level;
    std::copy(args_.trie.levels + level, args_.trie.levels + args_.trie.num_levels, below.levels);
    trie_step(
        {below, args_.filter, logits_.as<float>(), LogitType::float32, beams_ * codes.count, codes.count, users, beams_,
         codes.count, nodes_.data(), scores_.data(), next, args_.valid_only, needs_sums() ? sums_.data() : nullptr},
        {scores.data(), chosen.data(), parents_.data(), nodes.data(), pruned.data()}, args_.num_threads);
    for (std::int64_t user = 0; user < users; ++user)
      bound[user] = std::max(bound[user], pruned[static_cast<std::size_t>(user)]);
    write(level, chosen, next);
    scores_ = std::move(scores), nodes_ = std::move(nodes), beams_ = next;
  }

  // Codes [users, next, levels]: the parents' so far, and the one that was chosen.
  void write(int level, const std::vector<std::int32_t>& chosen, std::int64_t next) {
    const std::int64_t levels = args_.trie.num_levels, size = args_.trie.levels[level].codebook_size;
    std::vector<std::int32_t> written(static_cast<std::size_t>(args_.num_users * next * levels), 0);
    for (std::int64_t row = 0; row < args_.num_users * next; ++row) {
      const auto at = static_cast<std::size_t>(row);
      std::int32_t* to = written.data() + row * levels;
      // An altered trie makes a step choose what there is not.
      check(chosen[at] >= 0 && chosen[at] < size && parents_[at] >= 0 && parents_[at] < beams_, op,
            ": trie must have codes in [0, ", size, ") on level ", level, ", got ", chosen[at], " below beam ",
            parents_[at]);
      if (level) std::copy_n(written_.data() + parent(row, next) * levels, level, to);
      to[level] = chosen[at];
    }
    written_ = std::move(written);
  }

  // The beam before, of row `row` of the children.
  std::int64_t parent(std::int64_t row, std::int64_t next) const {
    return row / next * beams_ + parents_[static_cast<std::size_t>(row)];
  }

  // A step of the network behind the codes of a level.
  void extend(int level) {
    const std::int64_t count = rows(), before = static_cast<std::int64_t>(chain_.size());
    std::vector<std::int32_t> ancestors(static_cast<std::size_t>((before + 1) * count));
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(count));
    const Memory x(count * width_ * 4);
    for (std::int64_t row = 0; row < count; ++row) {
      const auto at = static_cast<std::size_t>(row);
      const std::int64_t code =
          written_[at * static_cast<std::size_t>(args_.trie.num_levels) + static_cast<std::size_t>(level)];
      const std::int64_t token = args_.code_tokens[level][code];
      check(token >= 0 && token < args_.first.num_tokens, op, ": tokens must be in [0, ", args_.first.num_tokens,
            "), got ", token);
      tokens[at] = token;
      float* to = x.as<float>() + row * width_;
      for (std::int64_t c = 0; c < width_; ++c) to[c] = args_.embedding[token * width_ + c] * args_.embedding_scale;
      if (args_.positions) {
        const std::int64_t* ends = args_.cache.offsets + row / beams_;
        check(ends[0] >= 0 && ends[1] >= ends[0], op, ": offsets must not decrease from 0, got ", ends[0], " and ",
              ends[1]);
        const std::int64_t place = ends[1] - ends[0] + before;
        check(place >= 0 && place < args_.num_positions, op, ": positions must have a row for every place, got ",
              args_.num_positions, " for place ", place);
        for (std::int64_t c = 0; c < width_; ++c) to[c] += args_.positions[place * width_ + c];
      }
      const std::int64_t parent = row / beams_ * stepped_ + parents_[at];
      for (std::int64_t j = 0; j < before; ++j)
        ancestors[static_cast<std::size_t>(j * count + row)] =
            ancestors_[static_cast<std::size_t>(j * stepped_ * args_.num_users + parent)];
      ancestors[static_cast<std::size_t>(before * count + row)] = static_cast<std::int32_t>(row);
    }
    const std::int64_t floats = read_.stack.num_layers * count * kept_;
    kept_rows_.emplace_back(floats * 4);
    hidden_ = Memory(count * width_ * 4);
    transformer_step({args_.weights,
                      x.as<float>(),
                      count,
                      {args_.first.table, tokens.data(), args_.first.num_tokens, args_.first.width},
                      args_.num_users,
                      beams_,
                      before,
                      args_.tables,
                      args_.cache,
                      args_.cross,
                      chain_.data(),
                      chain_rows_.data(),
                      chain_floats_.data(),
                      ancestors.data(),
                      nullptr,
                      before,
                      kept_rows_.back().as<float>(),
                      floats,
                      hidden_.as<float>(),
                      args_.num_threads});
    chain_.push_back(kept_rows_.back().as<float>()), chain_rows_.push_back(count);
    chain_floats_.push_back(floats);
    ancestors_ = std::move(ancestors), stepped_ = beams_;
  }

  void end() {
    score(args_.end_token, args_.end_token + 1);
    for (std::size_t row = 0; row < scores_.size(); ++row)
      scores_[row] = nodes_[row] < 0 ? -infinity : scores_[row] + (logits_.as<float>()[row] - sums_[row]);
  }

  const TransformerSearch& args_;
  TransformerSizes sizes_ = active_transformer_sizes();
  ReadStack read_;
  std::int64_t width_ = 0, kept_ = 0;
  std::int64_t beams_ = 1, stepped_ = 1;  // of each user: now, and at the last step
  Memory hidden_, logits_;
  std::vector<float> scores_, sums_;
  std::vector<std::int32_t> nodes_, parents_, written_, ancestors_;
  std::vector<Memory> kept_rows_;
  std::vector<const float*> chain_;
  std::vector<std::int64_t> chain_rows_, chain_floats_;
};

}  // namespace

void transformer_search(const TransformerSearch& args, const TransformerFound& out) {
  if (args.num_users) Search(args).run(out);
}

}  // namespace genrec
