#include "bindings/arguments.h"
#include "ops/jagged_attention.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

// Forward and backward share some forty numbers: both take them by the names of the struct's members.
AttentionArgs attention_args(const py::kwargs& values) {
  const Arguments given("jagged_attention", values);
  AttentionArgs args{};
  const auto set = [&](const char* name, auto& member) { member = given.value<std::decay_t<decltype(member)>>(name); };
  const auto point = [&](const char* name, auto& member) {
    member = reinterpret_cast<std::decay_t<decltype(member)>>(given.value<std::uintptr_t>(name));
  };
  point("q", args.q);
  point("k", args.k);
  point("v", args.v);
  set("element_size", args.element_size);
  set("q_stride", args.q_stride);
  set("k_stride", args.k_stride);
  set("v_stride", args.v_stride);
  set("num_queries", args.num_queries);
  set("num_keys", args.num_keys);
  set("num_heads", args.num_heads);
  set("width", args.width);
  set("value_width", args.value_width);
  point("offsets", args.offsets);
  point("kv_offsets", args.kv_offsets);
  set("num_rows", args.num_rows);
  set("softmax", args.softmax);
  set("causal", args.causal);
  set("alpha", args.alpha);
  set("max_seq_len", args.max_seq_len);
  set("divide", args.divide);
  point("num_targets", args.num_targets);
  set("target_group_size", args.target_group_size);
  set("contextual_seq_len", args.contextual_seq_len);
  set("max_attn_len", args.max_attn_len);
  set("min_full_attn_seq_len", args.min_full_attn_seq_len);
  point("distance", args.distance);
  set("distance_heads", args.distance_heads);
  set("distance_size", args.distance_size);
  point("time", args.time);
  set("time_heads", args.time_heads);
  set("time_size", args.time_size);
  point("query_times", args.query_times);
  point("key_times", args.key_times);
  point("thresholds", args.thresholds);
  set("num_thresholds", args.num_thresholds);
  set("dropout", args.dropout);
  args.seed = static_cast<std::uint64_t>(given.number("seed"));
  set("num_threads", args.num_threads);
  given.finish();
  return args;
}

}  // namespace

void register_jagged_attention(py::module_& m) {
  m.def("jagged_attention_check", [](const py::kwargs& given) {
    const AttentionArgs args = attention_args(given);
    py::gil_scoped_release unlocked;
    jagged_attention_check(args);
  });
  m.def(
      "jagged_attention",
      [](std::uintptr_t out, std::uintptr_t log_sums, const py::kwargs& given) {
        const AttentionArgs args = attention_args(given);
        py::gil_scoped_release unlocked;
        jagged_attention(args, as_pointer<void>(out), as_pointer<float>(log_sums));
      },
      py::arg("out"), py::arg("log_sums"));
  m.def(
      "jagged_attention_backward",
      [](std::uintptr_t grad, std::uintptr_t out, std::uintptr_t log_sums, std::uintptr_t grad_q, std::uintptr_t grad_k,
         std::uintptr_t grad_v, std::uintptr_t grad_distance, std::uintptr_t grad_time, const py::kwargs& given) {
        const AttentionArgs args = attention_args(given);
        const AttentionGradients gradients{as_pointer<const float>(grad),     as_pointer<const float>(out),
                                           as_pointer<const float>(log_sums), as_pointer<float>(grad_q),
                                           as_pointer<float>(grad_k),         as_pointer<float>(grad_v),
                                           as_pointer<float>(grad_distance),  as_pointer<float>(grad_time)};
        py::gil_scoped_release unlocked;
        jagged_attention_backward(args, gradients);
      },
      py::arg("grad"), py::arg("out"), py::arg("log_sums"), py::arg("grad_q"), py::arg("grad_k"), py::arg("grad_v"),
      py::arg("grad_distance"), py::arg("grad_time"));
}

}  // namespace genrec::bindings
