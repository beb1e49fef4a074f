#include "bindings/bindings.h"
#include "ops/jagged/jagged_attention.h"

namespace genrec::bindings {
namespace {

inline constexpr Dtypes vectors{"float32 or bfloat16", listed<dtype_of<float>(), bfloat16>};
inline constexpr Dtypes checked_vectors{"float32, bfloat16 or float64",
                                        listed<dtype_of<float>(), bfloat16, dtype_of<double>()>};

// Forward and backward share all but their outputs.
AttentionArgs attention_args(Arguments& given, const Dtypes& dtypes) {
  AttentionArgs args{};
  const Tensor q = given.rows("q", dtypes, "E H D", 1), k = given.rows("k", dtypes, "F H D", 1),
               v = given.rows("v", dtypes, "F H V", 1);
  check(q.dtype == k.dtype && q.dtype == v.dtype, given.op(), ": q, k and v must be of one dtype, got ", q.text(), ", ",
        k.text(), " and ", v.text());
  args.q = q.data;
  args.k = k.data;
  args.v = v.data;
  args.element_size = static_cast<int>(q.element_size());
  args.q_stride = q.strides[0];
  args.k_stride = k.strides[0];
  args.v_stride = v.strides[0];
  args.num_queries = given.size('E');
  args.num_keys = given.size('F');
  args.num_heads = given.size('H');
  args.width = given.size('D');
  args.value_width = given.size('V');
  args.offsets = given.in<std::int64_t>("offsets", "B+1");
  args.kv_offsets = given.in<std::int64_t>("kv_offsets", "B+1");
  args.num_rows = given.size('B');
  args.num_targets = given.maybe<std::int64_t>("num_targets", "B");
  args.distance = given.maybe<float>("distance_bias", "G S");
  args.distance_heads = given.size('G');
  args.distance_size = given.size('S');
  args.time = given.maybe<float>("time_bias", "I T");
  args.time_heads = given.size('I');
  args.time_size = given.size('T');
  args.query_times = given.maybe<std::int64_t>("query_times", "E");
  args.key_times = given.maybe<std::int64_t>("key_times", "F");
  args.thresholds = given.maybe<std::int64_t>("thresholds", "U");
  args.num_thresholds = given.size('U');
  args.softmax = given.flag("softmax");
  args.causal = given.flag("causal");
  args.alpha = static_cast<float>(given.real("alpha"));
  args.max_seq_len = given.number("max_seq_len");
  args.divide = given.flag("divide");
  args.target_group_size = given.number("target_group_size");
  args.contextual_seq_len = given.number("contextual_seq_len");
  args.max_attn_len = given.number("max_attn_len");
  args.min_full_attn_seq_len = given.number("min_full_attn_seq_len");
  args.dropout = given.real("dropout_p");
  args.seed = static_cast<std::uint64_t>(given.number("seed"));
  args.num_threads = given.threads();
  return args;
}

}  // namespace

void register_jagged_attention(pybind11::module_& m) {
  def<[](Arguments& given) {
    const AttentionArgs args = attention_args(given, checked_vectors);
    const auto unlocked = given.release();
    jagged_attention_check(args);
  }>(m, "jagged_attention_check");
  def<[](Arguments& given) {
    const AttentionArgs args = attention_args(given, vectors);
    void* const out =
        given.tensor("out", args.element_size == 2 ? rounded_floats : only<float>, "E H V", Layout::whole).data;
    float* const log_sums = args.softmax ? given.out<float>("log_sums", "E H") : nullptr;
    const auto unlocked = given.release();
    jagged_attention(args, out, log_sums);
  }>(m, "jagged_attention");
  def<[](Arguments& given) {
    const AttentionArgs args = attention_args(given, only<float>);
    const AttentionGradients gradients{given.in<float>("grad", "E H V"),
                                       given.in<float>("out", "E H V"),
                                       args.softmax ? given.in<float>("log_sums", "E H") : nullptr,
                                       given.out<float>("grad_q", "E H D"),
                                       given.out<float>("grad_k", "F H D"),
                                       given.out<float>("grad_v", "F H V"),
                                       given.maybe_out<float>("grad_distance", "G S"),
                                       given.maybe_out<float>("grad_time", "I T")};
    check((gradients.distance == nullptr) == (args.distance == nullptr) &&
              (gradients.time == nullptr) == (args.time == nullptr),
          given.op(), ": gradients must be given for the tables that are");
    const auto unlocked = given.release();
    jagged_attention_backward(args, gradients);
  }>(m, "jagged_attention_backward");
}

}  // namespace genrec::bindings
