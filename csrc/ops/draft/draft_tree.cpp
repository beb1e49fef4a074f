#include "ops/draft/draft_tree.h"

#include <algorithm>

#include "core/check.h"
#include "ops/draft/row_index.h"

namespace genrec {
namespace {

constexpr const char* op = "draft_tree";

class Tree {
 public:
  Tree(const DraftTreeArgs& args, const DraftTreeOutputs& out) : args_(args), out_(out), index_(args.rows) {
    for (std::int64_t d = 0; d < args.depth; ++d) slots_ += args.widths[d];
  }

  void user(std::int64_t b) {
    const std::int64_t* row_parents = args_.row_parents + b * args_.rows;
    const std::int32_t* row_codes = args_.row_codes + b * args_.rows;
    check_rows(op, row_parents, row_codes, args_.rows, b);
    index_.read(row_parents, row_codes);
    start_ = b * slots_;
    count_ = 0;
    const std::int64_t* above = args_.above + b * args_.num_above;
    std::int64_t num_above = args_.num_above, known = args_.rows;  // the rows that a parent may be
    std::int64_t* numbers = out_.numbers + start_;
    for (std::int64_t d = 0; d < args_.depth; ++d) {
      const std::int64_t width = args_.widths[d], from = b * width;
      for (std::int64_t i = 0; i < width; ++i) {
        const std::int32_t node = args_.nodes[d][from + i], code = args_.codes[d][from + i];
        if (node < 0) {
          numbers[i] = -1;
          continue;
        }
        const std::int64_t parent = args_.parents[d][from + i];
        check(parent >= 0 && parent < num_above, op, ": parents must be in [0, ", num_above, "), got ", parent,
              " for user ", b, " in level ", d);
        const std::int64_t row = above[parent];
        check(row >= 0 && row < known, op, ": parents must be prefixes, got ", parent, " for user ", b, " in level ", d,
              ", which is row ", row, " of ", known);
        check(code >= 0, op, ": codes must be at least 0, got ", code, " for user ", b, " in level ", d);
        const std::int64_t found = index_.find(row, code);
        numbers[i] = found >= 0 ? found : added(node, row, code, args_.levels[b] + d);
      }
      above = numbers, num_above = width, known = args_.rows + count_;
      numbers += width;
    }
    const std::int64_t end = start_ + count_, last = start_ + slots_;
    std::fill(out_.nodes + end, out_.nodes + last, -1);
    std::fill(out_.parents + end, out_.parents + last, 0);
    std::fill(out_.codes + end, out_.codes + last, -1);
    std::fill(out_.levels + end, out_.levels + last, 0);
    out_.counts[b] = count_;
  }

 private:
  std::int64_t added(std::int32_t node, std::int64_t parent, std::int32_t code, std::int64_t level) {
    const std::int64_t at = start_ + count_;
    out_.nodes[at] = node, out_.parents[at] = parent, out_.codes[at] = code, out_.levels[at] = level;
    return args_.rows + count_++;
  }

  const DraftTreeArgs& args_;
  const DraftTreeOutputs& out_;
  RowIndex index_;
  std::int64_t slots_ = 0, start_ = 0, count_ = 0;
};

}  // namespace

void draft_tree(const DraftTreeArgs& args, const DraftTreeOutputs& out) {
  Tree tree(args, out);
  for (std::int64_t b = 0; b < args.users; ++b) tree.user(b);
}

}  // namespace genrec
