#include <pybind11/stl.h>

#include "bindings/bindings.h"
#include "ops/trie_filter.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_trie_filter(py::module_& m) {
  m.def(
      "trie_filter_allow",
      [](std::uintptr_t item_rows, std::int64_t num_items, std::uintptr_t allowed, std::int64_t allowed_items,
         std::int64_t users, std::int64_t num_rows, std::uintptr_t bits, std::uintptr_t ranks) {
        py::gil_scoped_release unlocked;
        trie_filter_allow(as_pointer<const std::int32_t>(item_rows), num_items, as_pointer<const std::uint8_t>(allowed),
                          allowed_items, users, num_rows, as_pointer<std::uint64_t>(bits),
                          as_pointer<std::int32_t>(ranks));
      },
      py::kw_only(), py::arg("item_rows"), py::arg("num_items"), py::arg("allowed"), py::arg("allowed_items"),
      py::arg("users"), py::arg("num_rows"), py::arg("bits"), py::arg("ranks"));
  m.def(
      "trie_filter_exclude",
      [](std::uintptr_t item_rows, std::int64_t num_items, std::uintptr_t leaf_bases, std::int64_t num_leaf_bases,
         std::uintptr_t leaf_deltas, int leaf_width, std::uintptr_t leaf_items, std::int64_t num_leaf_items,
         std::int64_t num_rows, std::uintptr_t allowed, std::int64_t allowed_items, std::int64_t allowed_users,
         std::uintptr_t items, std::int64_t num_values, std::uintptr_t offsets, std::int64_t users, std::uintptr_t rows,
         std::uintptr_t row_offsets) {
        const RowItems catalog{as_pointer<const std::int32_t>(item_rows),
                               num_items,
                               {as_pointer<const std::int32_t>(leaf_bases), as_pointer<const void>(leaf_deltas),
                                leaf_width, num_leaf_bases},
                               as_pointer<const std::int32_t>(leaf_items),
                               num_rows,
                               num_leaf_items};
        py::gil_scoped_release unlocked;
        trie_filter_exclude(catalog, as_pointer<const std::uint8_t>(allowed), allowed_items, allowed_users,
                            as_pointer<const std::int64_t>(items), num_values, as_pointer<const std::int64_t>(offsets),
                            users, as_pointer<std::int32_t>(rows), as_pointer<std::int64_t>(row_offsets));
      },
      py::kw_only(), py::arg("item_rows"), py::arg("num_items"), py::arg("leaf_bases"), py::arg("num_leaf_bases"),
      py::arg("leaf_deltas"), py::arg("leaf_width"), py::arg("leaf_items"), py::arg("num_leaf_items"),
      py::arg("num_rows"), py::arg("allowed"), py::arg("allowed_items"), py::arg("allowed_users"), py::arg("items"),
      py::arg("num_values"), py::arg("offsets"), py::arg("users"), py::arg("rows"), py::arg("row_offsets"));
}

}  // namespace genrec::bindings
