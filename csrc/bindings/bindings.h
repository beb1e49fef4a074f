// One register function per op, called by core.cpp. Bindings hold no logic: read the arguments, release the GIL, call.
#pragma once
#include "bindings/arguments.h"

namespace genrec::bindings {

void register_code_sums(pybind11::module_& m);
void register_draft(pybind11::module_& m);
void register_expand_rows(pybind11::module_& m);
void register_fingerprint(pybind11::module_& m);
void register_gemm(pybind11::module_& m);
void register_jagged_attention(pybind11::module_& m);
void register_jagged_pack(pybind11::module_& m);
void register_kmeans_step(pybind11::module_& m);
void register_rq_decode(pybind11::module_& m);
void register_rq_encode(pybind11::module_& m);
void register_topk_inner_product(pybind11::module_& m);
void register_transformer(pybind11::module_& m);
void register_transformer_best_first(pybind11::module_& m);
void register_transformer_search(pybind11::module_& m);
void register_trie_build(pybind11::module_& m);
void register_trie_filter(pybind11::module_& m);
void register_trie_lookup(pybind11::module_& m);
void register_trie_places(pybind11::module_& m);
void register_trie_step(pybind11::module_& m);

}  // namespace genrec::bindings
