#include "bindings/bindings.h"
#include "ops/topk_inner_product.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_topk_inner_product(py::module_& m) {
  m.def(
      "topk_inner_product",
      [](std::uintptr_t queries, std::int64_t num_queries, std::uintptr_t table, std::int64_t num_items,
         std::int64_t depth, std::uintptr_t bias, std::int64_t k, std::uintptr_t allowed, std::int64_t allowed_stride,
         std::uintptr_t exclude_offsets, std::uintptr_t exclude_ids, std::int64_t num_excluded, int num_threads,
         std::uintptr_t scores, std::uintptr_t ids) {
        const TopkArgs args{as_pointer<const float>(queries),
                            num_queries,
                            as_pointer<const float>(table),
                            num_items,
                            depth,
                            as_pointer<const float>(bias),
                            k,
                            as_pointer<const std::uint8_t>(allowed),
                            allowed_stride,
                            as_pointer<const std::int64_t>(exclude_offsets),
                            as_pointer<const std::int64_t>(exclude_ids),
                            num_excluded,
                            num_threads,
                            as_pointer<float>(scores),
                            as_pointer<std::int64_t>(ids)};
        py::gil_scoped_release unlocked;
        topk_inner_product(args);
      },
      py::kw_only(), py::arg("queries"), py::arg("num_queries"), py::arg("table"), py::arg("num_items"),
      py::arg("depth"), py::arg("bias"), py::arg("k"), py::arg("allowed"), py::arg("allowed_stride"),
      py::arg("exclude_offsets"), py::arg("exclude_ids"), py::arg("num_excluded"), py::arg("num_threads"),
      py::arg("scores"), py::arg("ids"));
}

}  // namespace genrec::bindings
