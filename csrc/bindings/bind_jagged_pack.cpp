#include "bindings/bindings.h"
#include "ops/offsets.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_jagged_pack(py::module_& m) {
  m.def(
      "check_offsets",
      [](const std::string& op, const std::string& name, std::uintptr_t offsets, std::int64_t num_rows,
         std::int64_t total) {
        py::gil_scoped_release unlocked;
        check_offsets(op, name, as_pointer<const std::int64_t>(offsets), num_rows, total);
      },
      py::kw_only(), py::arg("op"), py::arg("name"), py::arg("offsets"), py::arg("num_rows"), py::arg("total"));
}

}  // namespace genrec::bindings
