#include "bindings/bindings.h"
#include "bindings/item_filter.h"
#include "ops/dense/topk_inner_product.h"

namespace genrec::bindings {

void register_topk_inner_product(pybind11::module_& m) {
  def<[](Arguments& given) {
    TopkArgs args{};
    args.queries = given.in<float>("queries", "B D");
    args.table = given.in<float>("table", "N D");
    args.num_queries = given.size('B');
    args.num_items = given.size('N');
    args.depth = given.size('D');
    args.bias = given.maybe<float>("bias", "N");
    take_item_filter(given, args.num_queries, args.num_items, args);
    args.scores = given.out<float>("scores", "B M");
    args.ids = given.out<std::int64_t>("ids", "B M");
    args.k = given.size('M');
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    topk_inner_product(args);
  }>(m, "topk_inner_product");
}

}  // namespace genrec::bindings
