#include "bindings/bindings.h"
#include "bindings/code_arguments.h"
#include "bindings/item_filter.h"
#include "ops/codes/completable_codes.h"
#include "ops/codes/topk_code_sums.h"
#include "ops/graph/graph_step.h"

namespace genrec::bindings {

void register_code_sums(pybind11::module_& m) {
  def<[](Arguments& given) {
    std::vector<std::int64_t> bases;
    TopkCodeSums args{};
    args.sums = code_sums(given, bases);
    take_item_filter(given, args.sums.num_users, args.sums.num_items, args);
    args.scores = given.out<float>("scores", "B M");
    args.ids = given.out<std::int64_t>("ids", "B M");
    args.k = given.size('M');
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    topk_code_sums(args);
  }>(m, "topk_code_sums");
  def<[](Arguments& given) {
    std::vector<std::int64_t> bases;
    GraphStep args{};
    args.sums = code_sums(given, bases);
    args.neighbours = given.in<std::int32_t>("neighbours", "N E");
    args.num_edges = given.size('E');
    args.items = given.in<std::int32_t>("items", "B F");
    args.num_from = given.size('F');
    args.reached = given.out<std::int32_t>("reached", "B M");
    args.scores = given.out<float>("scores", "B M");
    args.num_seen = given.out<std::int32_t>("num_seen", "B");
    args.num_beams = given.size('M');
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    graph_step(args);
  }>(m, "graph_step");
  def<[](Arguments& given) {
    std::vector<std::int64_t> bases;
    CompletableCodes args{};
    take_item_codes(given, args);
    args.written = given.in<std::int32_t>("written", "B W L");
    args.num_users = given.size('B');
    args.num_beams = given.size('W');
    take_item_filter(given, args.num_users, args.num_items, args);
    args.codes = given.out<bool>("codes", "B W V");
    args.bases = level_bases(given, args.num_levels, given.size('V'), bases);
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    completable_codes(args);
  }>(m, "completable_codes");
}

}  // namespace genrec::bindings
