#include "bindings/bindings.h"
#include "bindings/item_filter.h"
#include "bindings/trie_arguments.h"
#include "ops/trie/expand_rows.h"

namespace genrec::bindings {

void register_expand_rows(pybind11::module_& m) {
  static constexpr Dtypes rank_dtypes{"float32 or float64", listed<dtype_of<float>(), dtype_of<double>()>};
  def<[](Arguments& given) {
    ExpandRows args{};
    args.rows = given.in<std::int32_t>("rows", "B W");
    args.codes = given.in<std::int32_t>("codes", "B W L");
    args.scores = given.in<float>("scores", "B W");
    const Tensor ranks = given.tensor("ranks", rank_dtypes, "B W", Layout::copied);
    args.ranks = ranks.data;
    args.rank_bytes = static_cast<int>(ranks.element_size());
    args.num_users = given.size('B');
    args.num_beams = given.size('W');
    args.num_levels = given.size('L');
    const Tensor bases = given.tensor("leaf_bases", only<std::int32_t>, "P", Layout::whole);
    const Tensor deltas = given.tensor("leaf_deltas", delta_dtypes, "R+1", Layout::whole);
    args.leaf = packed_offsets(bases, deltas);
    args.leaf_items = given.in<std::int32_t>("leaf_items", "N");
    args.num_rows = given.size('R');
    args.num_items = given.size('N');
    take_item_filter(given, args.num_users, args.num_items, args);
    args.items = given.out<std::int64_t>("items", "B K");
    args.found_codes = given.out<std::int32_t>("found_codes", "B K L");
    args.found_scores = given.out<float>("found_scores", "B K");
    args.k = given.size('K');
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    expand_rows(args);
  }>(m, "expand_rows");
}

}  // namespace genrec::bindings
