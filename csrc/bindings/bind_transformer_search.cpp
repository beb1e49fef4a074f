#include "bindings/transformer_arguments.h"
#include "bindings/trie_arguments.h"
#include "ops/transformer_search.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_transformer_search(py::module_& m) {
  m.def("transformer_search", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_search", values);
    const auto chain = given.all<const float>("chain");
    const auto chain_rows = given.numbers("chain_rows"), chain_floats = given.numbers("chain_floats");
    const auto code_tokens = given.all<const std::int64_t>("code_tokens");
    const auto levels = given.value<std::vector<LevelArgument>>("levels");
    check(chain.size() == chain_rows.size() && chain.size() == chain_floats.size(), given.op(),
          ": chain must have rows and floats of every step, got ", chain.size(), ", ", chain_rows.size(), " and ",
          chain_floats.size());
    const auto sizes = given.numbers("codebook_sizes");
    check(code_tokens.size() == levels.size() && sizes.size() == levels.size(), given.op(),
          ": code_tokens must have one table per level, got ", code_tokens.size(), " for ", levels.size());
    const TransformerFirst first = given.first();
    const TransformerSearch args{given.weights(),
                                 given.at<const float>("hidden"),
                                 given.at<const float>("scores"),
                                 given.number("num_users"),
                                 given.tables(),
                                 given.cache(),
                                 given.cross(),
                                 static_cast<std::int64_t>(chain.size()),
                                 chain.data(),
                                 chain_rows.data(),
                                 chain_floats.data(),
                                 given.at<const std::int32_t>("ancestors"),
                                 view_of(given.op(), levels, sizes),
                                 filter_of(given.value<FilterArgument>("filter")),
                                 code_tokens.data(),
                                 given.at<const float>("embedding"),
                                 given.number("embedding_width"),
                                 given.value<float>("embedding_scale"),
                                 given.at<const float>("positions"),
                                 given.number("position_rows"),
                                 first,
                                 given.number("num_beams"),
                                 given.value<bool>("valid_only"),
                                 given.value<bool>("own_codes"),
                                 given.number("end_token"),
                                 given.threads()};
    const TransformerFound found{
        given.number("width"),           given.at<float>("found_scores"),        given.at<std::int32_t>("rows"),
        given.at<std::int32_t>("codes"), given.at<std::int64_t>("found_tokens"), given.at<float>("bound")};
    given.finish();
    py::gil_scoped_release unlocked;
    transformer_search(args, found);
  });
}

}  // namespace genrec::bindings
