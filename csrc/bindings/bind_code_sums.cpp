#include "bindings/bindings.h"
#include "bindings/code_arguments.h"
#include "ops/codes/completable_codes.h"
#include "ops/codes/topk_code_sums.h"
#include "ops/graph/graph_step.h"

namespace genrec::bindings {

void register_code_sums(pybind11::module_& m) {
  def<[](Arguments& given) {
    std::vector<std::int64_t> bases;
    TopkCodeSums args{};
    args.sums = code_sums(given, bases);
    args.allowed = reinterpret_cast<const std::uint8_t*>(given.maybe<bool>("allowed", "U N"));
    const std::int64_t rows = given.size('U');
    check(args.allowed == nullptr || rows == 1 || rows == args.sums.num_users,
          "topk_code_sums: allowed must have one row or one per user, got ", rows);
    args.allowed_stride = rows < args.sums.num_users ? 0 : args.sums.num_items;
    args.exclude_ids = given.maybe<std::int64_t>("exclude_ids", "X");
    args.exclude_offsets = given.maybe<std::int64_t>("exclude_offsets", "B+1");
    args.num_excluded = given.size('X');
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
    static constexpr Dtype kinds[] = {dtype_of<std::uint8_t>(), dtype_of<std::int32_t>()};
    std::vector<std::int64_t> bases(1, 0);
    for (const std::int64_t size : given.numbers("codebook_sizes")) bases.push_back(bases.back() + size);
    CompletableCodes args{};
    const Tensor codes = given.tensor("item_codes", {"uint8 or int32", kinds}, "N L", Layout::copied);
    args.item_codes = codes.data;
    args.code_bytes = static_cast<int>(codes.element_size());
    args.num_items = given.size('N');
    args.num_levels = given.size('L');
    args.bases = bases.data();
    args.written = given.in<std::int32_t>("written", "B W L");
    args.num_users = given.size('B');
    args.num_beams = given.size('W');
    args.allowed = reinterpret_cast<const std::uint8_t*>(given.maybe<bool>("allowed", "U N"));
    const std::int64_t rows = given.size('U');
    check(args.allowed == nullptr || rows == 1 || rows == args.num_users,
          "completable_codes: allowed must have one row or one per user, got ", rows);
    args.allowed_stride = rows < args.num_users ? 0 : args.num_items;
    args.exclude_ids = given.maybe<std::int64_t>("exclude_ids", "X");
    args.exclude_offsets = given.maybe<std::int64_t>("exclude_offsets", "B+1");
    args.num_excluded = given.size('X');
    args.codes = given.out<bool>("codes", "B W V");
    check(static_cast<std::int64_t>(bases.size()) == args.num_levels + 1 && bases.back() == given.size('V'),
          "completable_codes: codebook_sizes must be those of ", args.num_levels, " levels and add up to ",
          given.size('V'), ", got ", bases.size() - 1, " that add up to ", bases.back());
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    completable_codes(args);
  }>(m, "completable_codes");
}

}  // namespace genrec::bindings
