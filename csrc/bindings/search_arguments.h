// What the searches over a network and a trie share.
#pragma once
#include "bindings/transformer_arguments.h"
#include "bindings/trie_arguments.h"
#include "ops/transformer/transformer_search.h"

namespace genrec::bindings {

// All but the steps taken before and what is looked for. `code_tokens` must outlive the call.
inline TransformerSearch search_arguments(Arguments& given, Many<const std::int64_t>& code_tokens) {
  TransformerSearch args{};
  args.hidden = given.in<float>("hidden", "B D");
  args.weights = transformer_weights(given);
  args.scores = given.in<float>("scores", "B");
  args.num_users = given.size('B');
  args.cache = transformer_cache(given, false);
  args.tables = transformer_tables(given);
  args.cross = transformer_cross_cache(given);
  code_tokens = given.all<std::int64_t>("code_tokens", "k");
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
  given.set_size('L', args.trie.num_levels);
  return args;
}

}  // namespace genrec::bindings
