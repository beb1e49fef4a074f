#include <pybind11/stl.h>

#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "ops/fingerprint.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_fingerprint(py::module_& m) {
  m.def(
      "fingerprint",
      [](const std::vector<std::uintptr_t>& pointers, const std::vector<std::int64_t>& sizes, int num_threads) {
        check(pointers.size() == sizes.size(), "fingerprint: sizes must be one per pointer, got ", sizes.size(),
              " for ", pointers.size());
        std::vector<const void*> data;
        data.reserve(pointers.size());
        for (const std::uintptr_t pointer : pointers) data.push_back(as_pointer<const void>(pointer));
        py::gil_scoped_release unlocked;
        return fingerprint(data.data(), sizes.data(), static_cast<std::int64_t>(data.size()), num_threads);
      },
      py::kw_only(), py::arg("pointers"), py::arg("sizes"), py::arg("num_threads"));
  // The same for arrays whose addresses and sizes (int64, both at these addresses) the caller keeps in two tensors.
  m.def(
      "fingerprint_raw",
      [](std::uintptr_t pointers, std::uintptr_t sizes, std::int64_t count, int num_threads) {
        check(count >= 0, "fingerprint_raw: count must be at least 0, got ", count);
        check(count == 0 || (pointers != 0 && sizes != 0), "fingerprint_raw: pointers and sizes must have data");
        py::gil_scoped_release unlocked;
        return fingerprint(as_pointer<const void* const>(pointers), as_pointer<const std::int64_t>(sizes), count,
                           num_threads);
      },
      py::kw_only(), py::arg("pointers"), py::arg("sizes"), py::arg("count"), py::arg("num_threads"));
}

}  // namespace genrec::bindings
