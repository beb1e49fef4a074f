#include <pybind11/stl.h>

#include <vector>

#include "bindings/bindings.h"
#include "ops/rq_decode.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_rq_decode(py::module_& m) {
  m.def(
      "rq_decode",
      [](std::uintptr_t codes, int code_size, std::int64_t num_rows, std::int64_t depth,
         const std::vector<std::uintptr_t>& codebooks, const std::vector<std::int64_t>& num_codes, int num_threads,
         std::uintptr_t out) {
        std::vector<const float*> books;
        for (std::uintptr_t book : codebooks) books.push_back(as_pointer<const float>(book));
        const RqDecodeArgs args{as_pointer<const void>(codes),  code_size,    num_rows,         depth,
                                static_cast<int>(books.size()), books.data(), num_codes.data(), as_pointer<float>(out)};
        py::gil_scoped_release unlocked;
        rq_decode(args, num_threads);
      },
      py::kw_only(), py::arg("codes"), py::arg("code_size"), py::arg("num_rows"), py::arg("depth"),
      py::arg("codebooks"), py::arg("num_codes"), py::arg("num_threads"), py::arg("out"));
}

}  // namespace genrec::bindings
