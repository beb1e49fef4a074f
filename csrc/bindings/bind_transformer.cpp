#include "bindings/transformer_arguments.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_transformer(py::module_& m) {
  m.def("transformer_sizes", [] {
    const TransformerSizes sizes = active_transformer_sizes();
    return py::make_tuple(sizes.panel_width, sizes.bfloat16);
  });
  m.def("transformer_cache_size", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_cache_size", values);
    const TransformerWeights weights = given.weights();
    const auto* offsets = given.at<const std::int64_t>("offsets");
    const std::int64_t num_users = given.number("num_users"), num_rows = given.number("num_rows");
    const bool for_cross = given.value<bool>("for_cross");
    given.finish();
    return transformer_cache_size(weights, offsets, num_users, num_rows, for_cross);
  });
  m.def("transformer_prefill", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_prefill", values);
    const TransformerPrefill args{given.weights(),
                                  given.at<const float>("rows"),
                                  given.number("num_rows"),
                                  given.first(),
                                  given.number("num_users"),
                                  given.tables(),
                                  given.cache(),
                                  given.cross(),
                                  given.value<bool>("only_last"),
                                  given.at<float>("hidden"),
                                  given.threads()};
    given.finish();
    py::gil_scoped_release unlocked;
    transformer_prefill(args);
  });
  m.def("transformer_first", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_first", values);
    const TransformerWeights weights = given.weights();
    const float* rows = given.at<const float>("rows");
    const std::int64_t num_rows = given.number("num_rows"), table_width = given.number("table_width");
    float* table = given.at<float>("table");
    const int threads = given.threads();
    given.finish();
    py::gil_scoped_release unlocked;
    transformer_first(weights, rows, num_rows, table, table_width, threads);
  });
  m.def("transformer_cross", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_cross", values);
    const TransformerWeights weights = given.weights();
    const TransformerCache cache = given.cache();
    const float* rows = given.at<const float>("rows");
    const std::int64_t num_rows = given.number("num_rows"), num_users = given.number("num_users");
    const int threads = given.threads();
    given.finish();
    py::gil_scoped_release unlocked;
    transformer_cross(weights, rows, num_rows, cache, num_users, threads);
  });
  m.def("transformer_step", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_step", values);
    const auto chain = given.all<const float>("chain");
    const auto chain_rows = given.numbers("chain_rows"), chain_floats = given.numbers("chain_floats");
    check(chain.size() == chain_rows.size() && chain.size() == chain_floats.size(),
          "transformer_step: chain must have rows and floats of every step, got ", chain.size(), ", ",
          chain_rows.size(), " and ", chain_floats.size());
    const TransformerStep args{given.weights(),
                               given.at<const float>("rows"),
                               given.number("num_rows"),
                               given.first(),
                               given.number("num_users"),
                               given.number("num_beams"),
                               static_cast<std::int64_t>(chain.size()),
                               given.tables(),
                               given.cache(),
                               given.cross(),
                               chain.data(),
                               chain_rows.data(),
                               chain_floats.data(),
                               given.at<const std::int32_t>("ancestors"),
                               given.at<const std::int32_t>("parts"),
                               given.number("depth"),
                               given.at<float>("kept"),
                               given.number("kept_floats"),
                               given.at<float>("hidden"),
                               given.threads()};
    given.finish();
    py::gil_scoped_release unlocked;
    transformer_step(args);
  });
  m.def("transformer_head", [](const py::kwargs& values) {
    const TransformerArguments given("transformer_head", values);
    const TransformerHead args{
        given.weights(),      given.at<const float>("hidden"), given.number("num_rows"),    given.number("first"),
        given.number("last"), given.at<float>("logits"),       given.at<float>("log_sums"), given.threads()};
    given.finish();
    py::gil_scoped_release unlocked;
    transformer_head(args);
  });
}

}  // namespace genrec::bindings
