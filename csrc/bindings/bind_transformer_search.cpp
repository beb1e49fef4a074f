#include "bindings/bindings.h"
#include "bindings/search_arguments.h"

namespace genrec::bindings {

void register_transformer_search(pybind11::module_& m) {
  def<[](Arguments& given) {
    Many<const std::int64_t> code_tokens;
    TransformerSearch args = search_arguments(given, code_tokens);
    const auto chain = given.all<float>("chain", "l r k");
    args.num_steps = chain.count();
    args.chain = chain.data.data();
    args.chain_rows = chain.columns.data();
    args.chain_floats = chain.elements.data();
    given.set_size('N', args.num_steps);
    args.ancestors = given.in<std::int32_t>("ancestors", "N B");
    args.end_token = given.number("end_token");
    TransformerFound found{};
    found.scores = given.out<float>("found_scores", "B M");
    found.rows = given.out<std::int32_t>("rows", "B M");
    found.codes = given.out<std::int32_t>("codes", "B M L");
    found.tokens = given.out<std::int64_t>("found_tokens", "B M L");
    found.bound = given.out<float>("bound", "B");
    found.width = given.size('M');
    args.num_beams = given.number("num_beams");
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    transformer_search(args, found);
  }>(m, "transformer_search");
}

}  // namespace genrec::bindings
