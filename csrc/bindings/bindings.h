// One register function per op, called by core.cpp. Bindings hold no logic: cast, release the GIL, call.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <type_traits>

#include "core/check.h"

namespace genrec::bindings {

// Tensors cross the border as data pointers. Python copies a tensor whose elements lie at odd addresses
// (`torch.frombuffer` gives any); one that comes through is refused here, since vector loads and compilers rely on it.
template <typename T>
T* as_pointer(std::uintptr_t address) {
  if constexpr (!std::is_void_v<T>)
    check(address % alignof(T) == 0, "tensor: its elements must be aligned to ", alignof(T), " bytes, got address ",
          address, ": pass a clone() of it");
  return reinterpret_cast<T*>(address);
}

void register_fingerprint(pybind11::module_& m);
void register_gemm(pybind11::module_& m);
void register_jagged_attention(pybind11::module_& m);
void register_jagged_pack(pybind11::module_& m);
void register_kmeans_step(pybind11::module_& m);
void register_rq_decode(pybind11::module_& m);
void register_rq_encode(pybind11::module_& m);
void register_topk_inner_product(pybind11::module_& m);
void register_transformer(pybind11::module_& m);
void register_transformer_search(pybind11::module_& m);
void register_trie_build(pybind11::module_& m);
void register_trie_filter(pybind11::module_& m);
void register_trie_lookup(pybind11::module_& m);
void register_trie_step(pybind11::module_& m);

}  // namespace genrec::bindings
