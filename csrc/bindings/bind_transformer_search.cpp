#include "bindings/bindings.h"
#include "bindings/transformer_arguments.h"
#include "bindings/trie_arguments.h"
#include "ops/transformer/transformer_search.h"

namespace genrec::bindings {

void register_transformer_search(pybind11::module_& m) {
  def<[](Arguments& given) {
    TransformerSearch args{};
    args.hidden = given.in<float>("hidden", "B D");
    args.weights = transformer_weights(given);
    args.scores = given.in<float>("scores", "B");
    args.num_users = given.size('B');
    args.cache = transformer_cache(given, false);
    const auto chain = given.all<float>("chain", "l r k");
    args.num_steps = chain.count();
    args.chain = chain.data.data();
    args.chain_rows = chain.columns.data();
    args.chain_floats = chain.elements.data();
    given.set_size('N', args.num_steps);
    args.ancestors = given.in<std::int32_t>("ancestors", "N B");
    args.tables = transformer_tables(given);
    args.cross = transformer_cross_cache(given);
    const auto code_tokens = given.all<std::int64_t>("code_tokens", "k");
    args.code_tokens = code_tokens.data.data();
    args.trie = trie_view(given, code_tokens.rows);
    check(code_tokens.count() == args.trie.num_levels, given.op(), ": code_tokens must have one table per level, got ",
          code_tokens.count(), " for ", args.trie.num_levels);
    args.filter = row_filter(given);
    args.embedding = given.in<float>("embedding", "E D");
    args.embedding_width = given.size('D');
    args.embedding_scale = static_cast<float>(given.real("embedding_scale"));
    args.positions = given.maybe<float>("positions", "X D");
    args.num_positions = given.size('X');
    args.first = {given.maybe<float>("first_table", "E F"), nullptr, given.size('E'), given.size('F')};
    args.valid_only = given.flag("valid_only");
    args.own_codes = given.flag("own_codes");
    args.end_token = given.number("end_token");
    given.set_size('L', args.trie.num_levels);
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
