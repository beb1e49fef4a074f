#include "bindings/bindings.h"
#include "bindings/trie_arguments.h"
#include "ops/draft/draft_tree.h"
#include "ops/draft/draft_verify.h"

namespace genrec::bindings {

void register_draft(pybind11::module_& m) {
  def<[](Arguments& given) {
    DraftTreeArgs args{};
    args.row_parents = given.in<std::int64_t>("row_parents", "B R");
    args.row_codes = given.in<std::int32_t>("row_codes", "B R");
    args.above = given.in<std::int64_t>("above", "B A");
    args.levels = given.in<std::int64_t>("levels", "B");
    const auto nodes = given.all<std::int32_t>("nodes", "B w");
    const auto parents = given.all<std::int64_t>("parents", "B w");
    const auto codes = given.all<std::int32_t>("codes", "B w");
    check(parents.columns == nodes.columns && codes.columns == nodes.columns,
          "draft_tree: nodes, parents and codes must have as many levels of as many prefixes each");
    args.users = given.size('B');
    args.rows = given.size('R');
    args.num_above = given.size('A');
    args.depth = nodes.count();
    args.nodes = nodes.data.data();
    args.parents = parents.data.data();
    args.codes = codes.data.data();
    args.widths = nodes.columns.data();
    DraftTreeOutputs out{};
    out.nodes = given.out<std::int32_t>("new_nodes", "B S");
    out.parents = given.out<std::int64_t>("new_parents", "B S");
    out.codes = given.out<std::int32_t>("new_codes", "B S");
    out.levels = given.out<std::int64_t>("new_levels", "B S");
    out.counts = given.out<std::int64_t>("counts", "B");
    out.numbers = given.out<std::int64_t>("numbers", "B S");
    std::int64_t slots = 0;
    for (const std::int64_t width : nodes.columns) slots += width;
    check(given.size('S') == slots, "draft_tree: numbers must have ", slots, " columns, got ", given.size('S'));
    const auto unlocked = given.release();
    draft_tree(args, out);
  }>(m, "draft_tree");
  def<[](Arguments& given) {
    DraftVerifyArgs args{};
    args.rows.parents = given.in<std::int64_t>("row_parents", "B R");
    args.rows.wrote = given.in<std::int32_t>("row_codes", "B R");
    const Tensor logits = given.tensor("logits", floats, "B R K", Layout::copied);
    args.rows.logits = logits.data;
    args.rows.type = static_cast<LogitType>(float_number(logits.dtype));
    args.rows.log_sums = given.maybe<float>("log_sums", "B R");
    args.rows.users = given.size('B');
    args.rows.rows = given.size('R');
    args.rows.codes = given.size('K');
    DraftBeams beams{};
    beams.levels = given.out<std::int64_t>("levels", "B");
    beams.nodes = given.out<std::int32_t>("nodes", "B N");
    beams.scores = given.out<float>("scores", "B N");
    beams.codes = given.out<std::int32_t>("codes", "B N L");
    beams.above = given.out<std::int64_t>("above", "B N");
    beams.numbers = given.out<std::int64_t>("numbers", "B N");
    beams.bound = given.out<float>("bound", "B");
    beams.beams = given.size('N');
    args.widths = given.maybe<std::int64_t>("widths", "B");
    const auto sizes = given.numbers("codebook_sizes");
    args.trie = trie_view(given, sizes);
    const auto num_beams = given.numbers("num_beams");
    args.num_beams = num_beams.data();
    args.valid_only = given.flag("valid_only");
    args.filter = row_filter(given);
    const std::int64_t levels = args.trie.num_levels;
    check(given.size('L') == levels && static_cast<std::int64_t>(num_beams.size()) == levels &&
              static_cast<std::int64_t>(sizes.size()) == levels,
          "draft_verify: codes and num_beams must have ", levels, " levels like the trie, got ", given.size('L'),
          " and ", num_beams.size());
    const int threads = given.threads();
    const auto unlocked = given.release();
    draft_verify(args, beams, threads);
  }>(m, "draft_verify");
}

}  // namespace genrec::bindings
