#include "ops/transformer/transformer_best_first.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "ops/transformer/code_tokens.h"
#include "ops/transformer/transformer_call.h"
#include "ops/trie/trie_shape.h"

namespace genrec {
namespace {

constexpr const char* op = "transformer_best_first";
constexpr float infinity = std::numeric_limits<float>::infinity();

// A prefix that may still be extended, or one that leads to a single semantic ID.
struct Prefix {
  float score;
  std::int32_t node;    // within the level that follows it; of a whole semantic ID its row
  std::int32_t levels;  // codes that were written
  std::int32_t parent;  // the row of the network behind all but the last code; -1: the prompt
  std::int32_t code;    // the last
};

// A row of the network.
struct Row {
  std::int32_t parent, code, step, place;
};

struct User {
  std::int64_t number = 0;
  std::vector<Prefix> open, chosen, children, whole;  // open and whole: best first
  std::vector<Row> rows;
  std::vector<std::int32_t> behind;  // the row of each of the chosen
  float lost = -infinity, least = -infinity;
  std::int64_t expanded = 0;
  std::int32_t dive = 0;  // the level of a last descent
  bool over = false;
};

bool higher(const Prefix& a, const Prefix& b) { return a.score > b.score; }

std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

class BestFirst {
 public:
  explicit BestFirst(const TransformerBestFirst& args)
      : args_(args), search_(args.search), read_(read_stack(op, search_.weights, sizes_)) {
    const TransformerStack& stack = read_.stack;
    width_ = stack.width, kept_ = 2 * stack.num_kv_heads * stack.head_width;
    check_width(op, search_.weights, width_);
    check_trie(op, search_.trie);
    check(search_.trie.levels[0].num_nodes == 1, op, ": trie must begin with one root, got ",
          search_.trie.levels[0].num_nodes, " nodes");
    check_filter(op, search_.filter, search_.trie, search_.num_users);
    check(search_.embedding_width == width_, op, ": embedding must be [V, ", width_, "], got ", search_.embedding_width,
          " columns");
    check(0 <= args.first_user && args.first_user <= args.last_user && args.last_user <= search_.num_users, op,
          ": users must be a range of ", search_.num_users, ", got ", args.first_user, " to ", args.last_user);
    check(args.k >= 1 && args.budget >= 1 && args.least >= 1 && args.share >= 1, op,
          ": k, budget, least_rows and share must be at least 1, got ", args.k, ", ", args.budget, ", ", args.least,
          " and ", args.share);
    levels_ = search_.trie.num_levels;
    if (args.leaf.bases) check_packed(op, "leaf", args.leaf, search_.trie.levels[levels_ - 1].num_edges);
    for (int level = 0; level < levels_; ++level) {
      const TrieLevel& here = search_.trie.levels[level];
      codes_.emplace_back(op, search_.code_tokens[level], here.codebook_size, stack.head_size);
      TrieView below{};  // without a filter no deeper level is read
      below.num_levels = levels_ - level;
      std::copy(search_.trie.levels + level, search_.trie.levels + levels_, below.levels);
      below_.push_back(below);
    }
    check_prompts(op, "offsets", search_.cache.offsets, search_.num_users);
    users_.resize(at(args.last_user - args.first_user));
    for (std::size_t i = 0; i < users_.size(); ++i) {
      users_[i].number = args.first_user + static_cast<std::int64_t>(i);
      const float score = search_.scores[users_[i].number];
      if (score > -infinity) users_[i].open.push_back({score, 0, 0, -1, 0});
    }
  }

  void run(const TransformerBestFound& out) {
    for (std::size_t going = users_.size(); going;) {
      choose();
      extend();
      for (int level = 0; level < levels_; ++level) descend(level);
      going = 0;
      for (User& user : users_) {
        if (!user.over) settle(user);
        going += !user.over;
      }
    }
    for (std::size_t i = 0; i < users_.size(); ++i) write(users_[i], static_cast<std::int64_t>(i), out);
  }

 private:
  bool needs_sums() const { return !search_.valid_only && !search_.own_codes; }

  // Which open prefixes are extended now.
  void choose() {
    count_ = 0;
    for (User& user : users_) {
      user.chosen.clear(), user.children.clear(), user.behind.clear();
      if (user.over) continue;
      if (user.dive) {
        std::size_t kept = 0;
        for (const Prefix& prefix : user.open) {
          const bool taken = prefix.levels == user.dive && static_cast<std::int64_t>(user.chosen.size()) < args_.k;
          if (taken) user.chosen.push_back(prefix);
          if (!taken) user.open[kept++] = prefix;
        }
        user.open.resize(kept);
      } else {
        const std::int64_t room =
            std::min(std::max(args_.least, user.expanded / args_.share), args_.budget - user.expanded);
        const std::int64_t taken = std::clamp<std::int64_t>(room, 0, static_cast<std::int64_t>(user.open.size()));
        user.chosen.assign(user.open.begin(), user.open.begin() + taken);
        user.open.erase(user.open.begin(), user.open.begin() + taken);
      }
      count_ += static_cast<std::int64_t>(user.chosen.size());
    }
  }

  // The chosen go through the network, but for the empty prefixes, which the prompts are.
  void extend() {
    if (!begun_) {
      begun_ = true;
      hidden_ = Memory(std::max<std::int64_t>(count_, 1) * width_ * 4);
      float* to = hidden_.as<float>();
      for (User& user : users_)
        for (std::size_t i = 0; i < user.chosen.size(); ++i, to += width_) {
          std::copy_n(search_.hidden + user.number * width_, width_, to);
          user.behind.push_back(-1);
        }
      return;
    }
    if (!count_) return;
    std::int32_t depth = 0;
    for (const User& user : users_)
      for (const Prefix& prefix : user.chosen) depth = std::max(depth, prefix.levels - 1);
    std::vector<std::int32_t> ancestors(at(depth * count_), 0), parts(at(depth * count_), -1), of(at(count_));
    std::vector<std::int64_t> tokens(at(count_));
    const Memory x(count_ * width_ * 4);
    const auto step = static_cast<std::int32_t>(chain_.size());
    std::int64_t row = 0;
    for (User& user : users_)
      for (const Prefix& prefix : user.chosen) {
        of[at(row)] = static_cast<std::int32_t>(user.number);
        embed(user, prefix, row, tokens, x.as<float>() + row * width_);
        std::int32_t above = prefix.parent;
        for (std::int64_t j = prefix.levels - 2; j >= 0; --j) {
          const Row& ancestor = user.rows[at(above)];
          ancestors[at(j * count_ + row)] = ancestor.place, parts[at(j * count_ + row)] = ancestor.step;
          above = ancestor.parent;
        }
        user.behind.push_back(static_cast<std::int32_t>(user.rows.size()));
        user.rows.push_back({prefix.parent, prefix.code, step, static_cast<std::int32_t>(row++)});
        ++user.expanded;
      }
    run_network(depth, ancestors, parts, of, tokens, x.as<float>());
  }

  // What the row behind a prefix reads: its last code.
  void embed(const User& user, const Prefix& prefix, std::int64_t row, std::vector<std::int64_t>& tokens,
             float* to) const {
    const std::int64_t token = search_.code_tokens[prefix.levels - 1][prefix.code];
    check(token >= 0 && token < search_.first.num_tokens, op, ": tokens must be in [0, ", search_.first.num_tokens,
          "), got ", token);
    tokens[at(row)] = token;
    for (std::int64_t c = 0; c < width_; ++c) to[c] = search_.embedding[token * width_ + c] * search_.embedding_scale;
    if (!search_.positions) return;
    const std::int64_t* ends = search_.cache.offsets + user.number;
    const std::int64_t place = ends[1] - ends[0] + prefix.levels - 1;
    check(place < search_.num_positions, op, ": positions must have a row for every place, got ", search_.num_positions,
          " for place ", place);
    for (std::int64_t c = 0; c < width_; ++c) to[c] += search_.positions[place * width_ + c];
  }

  void run_network(std::int64_t depth, const std::vector<std::int32_t>& ancestors,
                   const std::vector<std::int32_t>& parts, const std::vector<std::int32_t>& of,
                   const std::vector<std::int64_t>& tokens, const float* x) {
    const auto steps = static_cast<std::int64_t>(chain_.size());
    const std::int64_t floats = read_.stack.num_layers * count_ * kept_;
    kept_rows_.emplace_back(floats * 4);
    hidden_ = Memory(count_ * width_ * 4);
    transformer_step({search_.weights,
                      x,
                      count_,
                      {search_.first.table, tokens.data(), search_.first.num_tokens, search_.first.width},
                      search_.num_users,
                      0,
                      steps,
                      search_.tables,
                      search_.cache,
                      search_.cross,
                      chain_.data(),
                      chain_rows_.data(),
                      chain_floats_.data(),
                      ancestors.data(),
                      depth ? parts.data() : nullptr,
                      depth,
                      kept_rows_.back().as<float>(),
                      floats,
                      hidden_.as<float>(),
                      search_.num_threads,
                      of.data()});
    chain_.push_back(kept_rows_.back().as<float>()), chain_rows_.push_back(count_);
    chain_floats_.push_back(floats);
  }

  // The children of the chosen of one level.
  void descend(int level) {
    std::vector<std::int64_t> begins;  // where each user's rows begin among those of this level
    std::int64_t count = 0;
    for (const User& user : users_) {
      begins.push_back(count);
      for (const Prefix& prefix : user.chosen) count += prefix.levels == level;
    }
    if (!count) return;
    const CodeTokens& codes = codes_[at(level)];
    Memory picked;
    const float* hidden = hidden_.as<float>();
    if (count != count_) {
      picked = Memory(count * width_ * 4);
      float* to = picked.as<float>();
      for (const User& user : users_)
        for (const Prefix& prefix : user.chosen) {
          if (prefix.levels == level) std::copy_n(hidden, width_, to), to += width_;
          hidden += width_;
        }
      hidden = picked.as<float>();
    }
    Memory logits(count * (codes.last - codes.first) * 4);
    std::vector<float> sums(at(needs_sums() ? count : 0));
    transformer_head({search_.weights, hidden, count, codes.first, codes.last, logits.as<float>(),
                      needs_sums() ? sums.data() : nullptr, search_.num_threads});
    logits = codes.picked(std::move(logits), count);
    // As in trie_step: below 100 us of work a second thread does not pay.
    const int threads = count * codes.count < 400'000 ? 1 : search_.num_threads;
    const auto users = static_cast<std::int64_t>(users_.size());
    const std::int64_t tasks = threads == 1 ? 1 : std::min<std::int64_t>(users, 4 * threads);
    parallel_for(tasks, threads, [&](std::int64_t task) {
      for (std::int64_t i = task * users / tasks; i < (task + 1) * users / tasks; ++i) {
        const std::int64_t begin = begins[at(i)], end = i + 1 < users ? begins[at(i + 1)] : count;
        if (begin < end)
          score(users_[at(i)], level, logits.as<float>() + begin * codes.count,
                needs_sums() ? sums.data() + begin : nullptr, end - begin);
      }
    });
  }

  // The children of a user's prefixes of a level, the best first.
  void score(User& user, int level, const float* logits, const float* sums, std::int64_t count) const {
    const TrieLevel& here = search_.trie.levels[level];
    std::vector<std::int32_t> nodes, behind;
    std::vector<float> scores;
    std::int64_t most = 0;
    for (std::size_t i = 0; i < user.chosen.size(); ++i) {
      const Prefix& prefix = user.chosen[i];
      if (prefix.levels != level) continue;
      nodes.push_back(prefix.node), scores.push_back(prefix.score), behind.push_back(user.behind[i]);
      const EdgeRange edges = edges_of(here, prefix.node);
      most += edges.end - edges.begin;
    }
    most = std::max<std::int64_t>(most, 1);
    std::vector<float> found(at(most));
    std::vector<std::int32_t> chosen(at(most)), parents(at(most)), below(at(most));
    float pruned = -infinity;
    std::int64_t ends[2];
    trie_step(
        {below_[at(level)], filter_of(user.number, ends), logits, LogitType::float32, count * here.codebook_size,
         here.codebook_size, 1, count, here.codebook_size, nodes.data(), scores.data(), most, search_.valid_only, sums},
        {found.data(), chosen.data(), parents.data(), below.data(), &pruned}, 1);
    user.lost = std::max(user.lost, pruned);
    for (std::int64_t i = 0; i < most && below[at(i)] >= 0; ++i) {
      // An altered trie makes a step choose what there is not: a code behind the last is one of a later beam.
      check(chosen[at(i)] >= 0 && chosen[at(i)] < here.codebook_size && parents[at(i)] >= 0 && parents[at(i)] < count,
            op, ": trie must have codes in [0, ", here.codebook_size, ") on level ", level, ", got ", chosen[at(i)],
            " below prefix ", parents[at(i)]);
      const Prefix child{found[at(i)], below[at(i)], level + 1, behind[at(parents[at(i)])], chosen[at(i)]};
      (leads_to_one(child) ? user.whole : user.children).push_back(child);
    }
  }

  RowFilter filter_of(std::int64_t user, std::int64_t* ends) const {
    RowFilter own = search_.filter;
    if (own.bits && own.users > 1) own.bits += user * own.words, own.ranks += user * own.words, own.users = 1;
    if (own.excluded_offsets) {
      const std::int64_t begin = own.excluded_offsets[user];
      ends[0] = 0, ends[1] = own.num_excluded = own.excluded_offsets[user + 1] - begin;
      own.excluded += begin, own.excluded_offsets = ends, own.excluded_users = 1;
    }
    return own;
  }

  // Whether it is a semantic ID; where scores are over what the trie allows, also if it can become one alone.
  bool leads_to_one(const Prefix& prefix) const {
    if (prefix.levels < levels_ && !search_.valid_only) return false;
    std::int64_t node = prefix.node;
    for (int level = prefix.levels; level < levels_; ++level) {
      const EdgeRange edges = edges_of(search_.trie.levels[level], node);
      if (edges.end - edges.begin != 1) return false;
      node = edges.begin;
    }
    return true;
  }

  // After a round: what can still matter, and whether the search is over.
  void settle(User& user) const {
    std::stable_sort(user.whole.begin(), user.whole.end(), higher);
    user.least = kth(user);
    const auto below = [&](const Prefix& prefix) { return prefix.score >= user.least; };
    user.whole.erase(std::partition_point(user.whole.begin(), user.whole.end(), below), user.whole.end());
    std::stable_sort(user.children.begin(), user.children.end(), higher);
    const auto middle = static_cast<std::ptrdiff_t>(user.open.size());
    user.open.insert(user.open.end(), user.children.begin(), user.children.end());
    std::inplace_merge(user.open.begin(), user.open.begin() + middle, user.open.end(), higher);
    const auto end = std::partition_point(user.open.begin(), user.open.end(), below);
    if (end != user.open.end()) user.lost = std::max(user.lost, end->score);
    user.open.erase(end, user.open.end());
    const bool spent = !user.open.empty() && user.expanded >= args_.budget;
    // Fewer than k items: down from level to level, as a beam search goes.
    user.dive = spent && user.least == -infinity ? user.dive + 1 : 0;
    user.over = user.open.empty() || (spent && (user.dive == 0 || user.dive >= levels_));
  }

  // The score of the k-th item that was found.
  float kth(const User& user) const {
    std::int64_t items = 0;
    for (const Prefix& prefix : user.whole) {
      items += args_.leaf.bases ? items_of(row_of(prefix)) : 1;
      if (items >= args_.k) return prefix.score;
    }
    return -infinity;
  }

  std::int64_t items_of(std::int64_t row) const {
    return std::max<std::int64_t>(offset_at(args_.leaf, row + 1) - offset_at(args_.leaf, row), 0);
  }

  std::int64_t row_of(const Prefix& prefix) const {
    std::int64_t node = prefix.node;
    for (int level = prefix.levels; level < levels_; ++level) node = edges_of(search_.trie.levels[level], node).begin;
    return node;
  }

  void write(const User& user, std::int64_t number, const TransformerBestFound& out) const {
    const auto found = std::min(static_cast<std::int64_t>(user.whole.size()), out.width);
    for (std::int64_t i = 0; i < out.width; ++i) {
      const std::int64_t to = number * out.width + i;
      std::int32_t* codes = out.codes + to * levels_;
      std::fill(codes, codes + levels_, 0);
      out.scores[to] = i < found ? user.whole[at(i)].score : -infinity;
      out.rows[to] = i < found ? static_cast<std::int32_t>(row_of(user.whole[at(i)])) : -1;
      if (i < found) write_codes(user, user.whole[at(i)], codes);
    }
    out.bound[number] = user.open.empty() ? user.lost : std::max(user.lost, user.open[0].score);
    out.expanded[number] = user.expanded;
    out.cut[number] = static_cast<std::int64_t>(user.whole.size()) > found;
  }

  void write_codes(const User& user, const Prefix& prefix, std::int32_t* codes) const {
    std::int32_t level = prefix.levels - 1, above = prefix.parent;
    codes[level] = prefix.code;
    for (; above >= 0; above = user.rows[at(above)].parent) codes[--level] = user.rows[at(above)].code;
    std::int64_t node = prefix.node;
    for (int below = prefix.levels; below < levels_; ++below) {
      node = edges_of(search_.trie.levels[below], node).begin;
      codes[below] = token_at(search_.trie.levels[below], node);
    }
  }

  const TransformerBestFirst& args_;
  const TransformerSearch& search_;
  TransformerSizes sizes_ = active_transformer_sizes();
  ReadStack read_;
  int levels_ = 0;
  std::int64_t width_ = 0, kept_ = 0;
  std::int64_t count_ = 0;  // rows of this round
  bool begun_ = false;
  std::vector<User> users_;
  std::vector<CodeTokens> codes_;
  std::vector<TrieView> below_;
  Memory hidden_;  // of the chosen, user by user
  std::vector<Memory> kept_rows_;
  std::vector<const float*> chain_;
  std::vector<std::int64_t> chain_rows_, chain_floats_;
};

}  // namespace

void transformer_best_first(const TransformerBestFirst& args, const TransformerBestFound& out) {
  if (args.first_user < args.last_user) BestFirst(args).run(out);
}

}  // namespace genrec
