#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "ops/rq_encode.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_rq_encode(py::module_& m) {
  m.def(
      "rq_encode",
      [](std::uintptr_t x, int element, std::int64_t num_rows, std::int64_t depth,
         const std::vector<std::uintptr_t>& codebooks, const std::vector<std::int64_t>& num_codes, int num_beams,
         bool bfloat16, int num_threads, std::uintptr_t codes) {
        std::vector<const float*> books;
        for (const std::uintptr_t book : codebooks) books.push_back(as_pointer<const float>(book));
        py::gil_scoped_release unlocked;
        rq_encode({"rq_encode", as_pointer<const void>(x), static_cast<RqElement>(element), num_rows, depth,
                   static_cast<int>(books.size()), books.data(), num_codes.data(), num_beams, bfloat16, num_threads,
                   as_pointer<std::int32_t>(codes)});
      },
      py::kw_only(), py::arg("x"), py::arg("element"), py::arg("num_rows"), py::arg("depth"), py::arg("codebooks"),
      py::arg("num_codes"), py::arg("num_beams"), py::arg("bfloat16"), py::arg("num_threads"), py::arg("codes"));
}

}  // namespace genrec::bindings
