#include "bindings/bindings.h"
#include "bindings/search_arguments.h"
#include "ops/transformer/transformer_best_first.h"

namespace genrec::bindings {

void register_transformer_best_first(pybind11::module_& m) {
  def<[](Arguments& given) {
    Many<const std::int64_t> code_tokens;
    TransformerBestFirst args{};
    args.search = search_arguments(given, code_tokens);
    args.search.end_token = -1;
    args.first_user = given.number("first_user");
    args.last_user = given.number("last_user");
    args.k = given.number("k");
    args.budget = given.number("budget");
    args.least = given.number("least_rows");
    args.share = given.number("share");
    if (given.is_none("leaf_bases")) {
      check(given.is_none("leaf_deltas"), given.op(), ": leaf_bases must be given with leaf_deltas, got None");
    } else {
      const Tensor bases = given.tensor("leaf_bases", only<std::int32_t>, "b", Layout::whole);
      args.leaf = packed_offsets(bases, given.tensor("leaf_deltas", delta_dtypes, "n", Layout::whole));
    }
    TransformerBestFound found{};
    found.scores = given.out<float>("found_scores", "A M");
    found.rows = given.out<std::int32_t>("rows", "A M");
    found.codes = given.out<std::int32_t>("codes", "A M L");
    found.bound = given.out<float>("bound", "A");
    found.expanded = given.out<std::int64_t>("expanded", "A");
    found.cut = given.out<bool>("cut", "A");
    found.width = given.size('M');
    check(given.size('A') == args.last_user - args.first_user, given.op(),
          ": found must have a row for each user that is searched, got ", given.size('A'));
    args.search.num_threads = given.threads();
    const auto unlocked = given.release();
    transformer_best_first(args, found);
  }>(m, "transformer_best_first");
}

}  // namespace genrec::bindings
