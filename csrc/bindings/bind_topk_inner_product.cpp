#include "bindings/bindings.h"
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
    args.allowed = reinterpret_cast<const std::uint8_t*>(given.maybe<bool>("allowed", "U N"));
    const std::int64_t rows = given.size('U');
    check(args.allowed == nullptr || rows == 1 || rows == args.num_queries,
          "topk_inner_product: allowed must have one row or one per query, got ", rows);
    args.allowed_stride = rows < args.num_queries ? 0 : args.num_items;
    args.exclude_ids = given.maybe<std::int64_t>("exclude_ids", "X");
    args.exclude_offsets = given.maybe<std::int64_t>("exclude_offsets", "B+1");
    args.num_excluded = given.size('X');
    args.scores = given.out<float>("scores", "B M");
    args.ids = given.out<std::int64_t>("ids", "B M");
    args.k = given.size('M');
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    topk_inner_product(args);
  }>(m, "topk_inner_product");
}

}  // namespace genrec::bindings
