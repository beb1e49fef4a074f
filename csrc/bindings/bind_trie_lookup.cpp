#include <pybind11/stl.h>

#include "bindings/trie_arguments.h"
#include "ops/trie_lookup.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_trie_lookup(py::module_& m) {
  m.def(
      "trie_lookup",
      [](const std::vector<LevelArgument>& levels, const std::vector<std::int64_t>& codebook_sizes,
         std::uintptr_t codes, int code_size, std::int64_t num_prefixes, int length, int num_threads,
         std::uintptr_t out) {
        const TrieView view = view_of("trie_lookup", levels, codebook_sizes);
        py::gil_scoped_release unlocked;
        trie_lookup(view, as_pointer<const void>(codes), code_size, num_prefixes, length, num_threads,
                    as_pointer<std::int32_t>(out));
      },
      py::kw_only(), py::arg("levels"), py::arg("codebook_sizes"), py::arg("codes"), py::arg("code_size"),
      py::arg("num_prefixes"), py::arg("length"), py::arg("num_threads"), py::arg("out"));
}

}  // namespace genrec::bindings
