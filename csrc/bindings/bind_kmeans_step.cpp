#include "bindings/bindings.h"
#include "ops/kmeans_step.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_kmeans_step(py::module_& m) {
  m.def(
      "kmeans_step",
      [](std::uintptr_t x, int element, std::int64_t num_rows, std::int64_t depth, std::uintptr_t centroids,
         std::int64_t num_centroids, bool bfloat16, int num_threads, std::uintptr_t labels, std::uintptr_t sums,
         std::uintptr_t counts, std::uintptr_t inertia) {
        const KMeansStepArgs args{as_pointer<const void>(x),
                                  static_cast<RqElement>(element),
                                  num_rows,
                                  depth,
                                  as_pointer<const float>(centroids),
                                  num_centroids,
                                  bfloat16,
                                  num_threads,
                                  as_pointer<std::int32_t>(labels),
                                  as_pointer<double>(sums),
                                  as_pointer<std::int64_t>(counts),
                                  as_pointer<double>(inertia)};
        py::gil_scoped_release unlocked;
        kmeans_step(args);
      },
      py::kw_only(), py::arg("x"), py::arg("element"), py::arg("num_rows"), py::arg("depth"), py::arg("centroids"),
      py::arg("num_centroids"), py::arg("bfloat16"), py::arg("num_threads"), py::arg("labels"), py::arg("sums"),
      py::arg("counts"), py::arg("inertia"));
}

}  // namespace genrec::bindings
