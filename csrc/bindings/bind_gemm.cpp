#include "bindings/bindings.h"
#include "ops/gemm.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_gemm(py::module_& m) {
  m.def("gemm_pack_size", &gemm_pack_size, py::kw_only(), py::arg("num_columns"), py::arg("depth"),
        py::arg("element_size"));
  m.def(
      "gemm_pack",
      [](std::uintptr_t b, std::int64_t num_columns, std::int64_t depth, int element_size, int num_threads,
         std::uintptr_t packed) {
        py::gil_scoped_release unlocked;
        gemm_pack(as_pointer<const float>(b), num_columns, depth, element_size, num_threads, as_pointer<void>(packed));
      },
      py::kw_only(), py::arg("b"), py::arg("num_columns"), py::arg("depth"), py::arg("element_size"),
      py::arg("num_threads"), py::arg("packed"));
  m.def(
      "gemm",
      [](std::uintptr_t a, std::int64_t num_rows, std::int64_t depth, std::uintptr_t packed, std::int64_t packed_bytes,
         std::int64_t num_columns, int element_size, std::uintptr_t start, int num_threads, std::uintptr_t out) {
        py::gil_scoped_release unlocked;
        gemm({as_pointer<const void>(a), num_rows, depth, as_pointer<const void>(packed), packed_bytes, num_columns,
              element_size, as_pointer<const float>(start), num_threads, as_pointer<float>(out)});
      },
      py::kw_only(), py::arg("a"), py::arg("num_rows"), py::arg("depth"), py::arg("packed"), py::arg("packed_bytes"),
      py::arg("num_columns"), py::arg("element_size"), py::arg("start"), py::arg("num_threads"), py::arg("out"));
}

}  // namespace genrec::bindings
