#include "bindings/transformer_arguments.h"
#include "bindings/trie_arguments.h"
#include "ops/transformer_search.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_transformer_search(py::module_& m) {
  m.def("transformer_search", [](const py::kwargs& values) {
    const Given given{values};
    const auto chain = given.all<const float>("chain");
    const auto chain_rows = given.numbers("chain_rows");
    const auto code_tokens = given.all<const std::int64_t>("code_tokens");
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
                                 given.at<const std::int32_t>("ancestors"),
                                 view_of("transformer_search", values["levels"].cast<std::vector<LevelArgument>>(),
                                         given.numbers("codebook_sizes")),
                                 filter_of(values["filter"].cast<FilterArgument>()),
                                 code_tokens.data(),
                                 given.at<const float>("embedding"),
                                 first.num_tokens,
                                 values["embedding_scale"].cast<float>(),
                                 first.table,
                                 given.number("num_beams"),
                                 values["valid_only"].cast<bool>(),
                                 given.number("end_token"),
                                 given.threads()};
    const TransformerFound found{
        given.number("width"),           given.at<float>("found_scores"),        given.at<std::int32_t>("rows"),
        given.at<std::int32_t>("codes"), given.at<std::int64_t>("found_tokens"), given.at<float>("bound")};
    py::gil_scoped_release unlocked;
    transformer_search(args, found);
  });
}

}  // namespace genrec::bindings
