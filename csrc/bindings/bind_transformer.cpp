#include <tuple>

#include "bindings/bindings.h"
#include "bindings/transformer_arguments.h"

namespace genrec::bindings {
namespace {

TransformerPrefill transformer_prompts(Arguments& given) {
  TransformerPrefill args{};
  args.rows = given.in<float>("rows", "R D");
  args.num_rows = given.size('R');
  args.weights = transformer_weights(given);
  args.offsets = given.in<std::int64_t>("offsets", "B+1");
  args.num_users = given.size('B');
  return args;
}

void prefill(Arguments& given, TransformerPrefill& args) {
  args.tables = transformer_tables(given);
  args.cross = transformer_cross_cache(given);
  args.first = transformer_first_table(given);
  args.only_last = given.flag("only_last");
  args.hidden = given.out<float>("hidden", args.only_last ? "B D" : "R D");
  args.num_threads = given.threads();
  const auto unlocked = given.release();
  transformer_prefill(args);
}

}  // namespace

void register_transformer(pybind11::module_& m) {
  def<[](Arguments& given) {
    given.finish();
    const TransformerSizes sizes = active_transformer_sizes();
    return std::make_tuple(sizes.panel_width, sizes.bfloat16);
  }>(m, "transformer_sizes");
  def<[](Arguments& given) {
    given.set_size('D', given.number("rows_width"));
    const TransformerWeights weights = transformer_weights(given);
    const std::int64_t num_rows = given.number("num_rows");
    const std::int64_t* const offsets = given.in<std::int64_t>("offsets", "B+1");
    const bool for_cross = given.flag("for_cross");
    given.finish();
    return transformer_cache_size(weights, offsets, given.size('B'), num_rows, for_cross);
  }>(m, "transformer_cache_size");
  def<[](Arguments& given) {
    TransformerPrefill args = transformer_prompts(given);
    args.cache = transformer_cache(given, true);
    prefill(given, args);
  }>(m, "transformer_prefill");
  def<[](Arguments& given) {  // behind what was read of each user before
    TransformerPrefill args = transformer_prompts(given);
    const auto past = given.all<float>("past", "c");
    check(past.count() == args.num_users, given.op(), ": past must hold a cache for each of ", args.num_users,
          " users, got ", past.count());
    args.past = {past.data.data(), past.elements.data(), given.in<std::int64_t>("past_rows", "B"),
                 given.in<std::int64_t>("past_used", "B")};
    args.cache.offsets = given.in<std::int64_t>("cache_offsets", "B+1");
    args.cache.values = given.out<float>("cache", "C");
    args.cache.num_floats = given.size('C');
    prefill(given, args);
  }>(m, "transformer_prefill_past");
  def<[](Arguments& given) {
    const float* const rows = given.in<float>("rows", "R D");
    const TransformerWeights weights = transformer_weights(given);
    float* const table = given.out<float>("table", "R F");
    const std::int64_t count = given.size('R'), width = given.size('F');
    const int threads = given.threads();
    const auto unlocked = given.release();
    transformer_first(weights, rows, count, table, width, threads);
  }>(m, "transformer_first");
  def<[](Arguments& given) {
    const float* const rows = given.in<float>("rows", "R D");
    const TransformerWeights weights = transformer_weights(given);
    const TransformerCache cache = transformer_cache(given, true);
    const std::int64_t count = given.size('R'), users = given.size('B');
    const int threads = given.threads();
    const auto unlocked = given.release();
    transformer_cross(weights, rows, count, cache, users, threads);
  }>(m, "transformer_cross");
  def<[](Arguments& given) {
    TransformerStep args{};
    args.rows = given.in<float>("rows", "R D");
    args.num_rows = given.size('R');
    args.weights = transformer_weights(given);
    args.cache = transformer_cache(given, false);
    args.num_users = given.size('B');
    args.num_beams = args.num_users ? args.num_rows / args.num_users : 0;
    const auto chain = given.all<float>("chain", "l r k");
    args.num_steps = chain.count();
    args.chain = chain.data.data();
    args.chain_rows = chain.columns.data();
    args.chain_floats = chain.elements.data();
    const bool tree = !given.is_none("parts");
    if (tree) args.parts = given.in<std::int32_t>("parts", "N R");
    if (!tree) given.set_size('N', args.num_steps);
    args.ancestors = given.in<std::int32_t>("ancestors", "N R");
    args.depth = given.size('N');
    args.tables = transformer_tables(given);
    args.cross = transformer_cross_cache(given);
    args.first = transformer_first_table(given);
    const Tensor kept = given.tensor("kept", only<float>, "l R k", Layout::whole);
    args.kept = static_cast<float*>(kept.data);
    args.kept_floats = kept.elements();
    args.hidden = given.out<float>("hidden", "R D");
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    transformer_step(args);
  }>(m, "transformer_step");
  def<[](Arguments& given) {
    TransformerHead args{};
    args.hidden = given.in<float>("hidden", "R D");
    args.num_rows = given.size('R');
    args.weights = transformer_weights(given);
    args.first = given.number("first");
    args.last = given.number("last");
    given.set_size('L', args.last - args.first);
    args.logits = given.out<float>("logits", "R L");
    args.log_sums = given.maybe_out<float>("log_sums", "R");
    args.num_threads = given.threads();
    const auto unlocked = given.release();
    transformer_head(args);
  }>(m, "transformer_head");
}

}  // namespace genrec::bindings
