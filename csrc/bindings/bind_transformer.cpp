#include "bindings/transformer_arguments.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_transformer(py::module_& m) {
  m.def("transformer_sizes", [] {
    const TransformerSizes sizes = active_transformer_sizes();
    return py::make_tuple(sizes.panel_width, sizes.bfloat16);
  });
  m.def("transformer_cache_size", [](const py::kwargs& values) {
    const Given given{values};
    return transformer_cache_size(given.weights(), given.at<const std::int64_t>("offsets"), given.number("num_users"),
                                  values["for_cross"].cast<bool>());
  });
  m.def("transformer_prefill", [](const py::kwargs& values) {
    const Given given{values};
    const TransformerPrefill args{given.weights(),
                                  given.at<const float>("rows"),
                                  given.first(),
                                  given.number("num_users"),
                                  given.tables(),
                                  given.cache(),
                                  given.cross(),
                                  values["only_last"].cast<bool>(),
                                  given.at<float>("hidden"),
                                  given.threads()};
    py::gil_scoped_release unlocked;
    transformer_prefill(args);
  });
  m.def("transformer_first", [](const py::kwargs& values) {
    const Given given{values};
    const TransformerWeights weights = given.weights();
    const float* rows = given.at<const float>("rows");
    const std::int64_t num_rows = given.number("num_rows");
    float* table = given.at<float>("table");
    const int threads = given.threads();
    py::gil_scoped_release unlocked;
    transformer_first(weights, rows, num_rows, table, threads);
  });
  m.def("transformer_cross", [](const py::kwargs& values) {
    const Given given{values};
    const TransformerWeights weights = given.weights();
    const TransformerCache cache = given.cache();
    const float* rows = given.at<const float>("rows");
    const std::int64_t num_users = given.number("num_users");
    const int threads = given.threads();
    py::gil_scoped_release unlocked;
    transformer_cross(weights, rows, cache, num_users, threads);
  });
  m.def("transformer_step", [](const py::kwargs& values) {
    const Given given{values};
    const auto chain = given.all<const float>("chain");
    const auto chain_rows = given.numbers("chain_rows");
    const TransformerStep args{given.weights(),
                               given.at<const float>("rows"),
                               given.first(),
                               given.number("num_users"),
                               given.number("num_beams"),
                               static_cast<std::int64_t>(chain.size()),
                               given.tables(),
                               given.cache(),
                               given.cross(),
                               chain.data(),
                               chain_rows.data(),
                               given.at<const std::int32_t>("ancestors"),
                               given.at<float>("kept"),
                               given.number("kept_floats"),
                               given.at<float>("hidden"),
                               given.threads()};
    py::gil_scoped_release unlocked;
    transformer_step(args);
  });
  m.def("transformer_head", [](const py::kwargs& values) {
    const Given given{values};
    const TransformerHead args{
        given.weights(),      given.at<const float>("hidden"), given.number("num_rows"),    given.number("first"),
        given.number("last"), given.at<float>("logits"),       given.at<float>("log_sums"), given.threads()};
    py::gil_scoped_release unlocked;
    transformer_head(args);
  });
}

}  // namespace genrec::bindings
