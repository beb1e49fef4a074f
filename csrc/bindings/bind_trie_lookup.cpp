#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "bindings/trie_view.h"
#include "ops/trie_lookup.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_trie_lookup(py::module_& m) {
  m.def(
      "trie_lookup",
      [](const Numbers& codebook_sizes, const Numbers& num_edges, const Addresses& tokens, const Numbers& token_widths,
         const Addresses& bases, const Addresses& deltas, const Numbers& delta_widths, std::uintptr_t codes,
         int code_size, std::int64_t num_prefixes, int length, int num_threads, std::uintptr_t out) {
        const TrieView view = trie_view(codebook_sizes, num_edges, tokens, token_widths, bases, deltas, delta_widths);
        py::gil_scoped_release unlocked;
        trie_lookup(view, as_pointer<const void>(codes), code_size, num_prefixes, length, num_threads,
                    as_pointer<std::int32_t>(out));
      },
      py::kw_only(), py::arg("codebook_sizes"), py::arg("num_edges"), py::arg("tokens"), py::arg("token_widths"),
      py::arg("bases"), py::arg("deltas"), py::arg("delta_widths"), py::arg("codes"), py::arg("code_size"),
      py::arg("num_prefixes"), py::arg("length"), py::arg("num_threads"), py::arg("out"));
}

}  // namespace genrec::bindings
