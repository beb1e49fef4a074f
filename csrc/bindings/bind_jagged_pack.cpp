#include <pybind11/stl.h>

#include <vector>

#include "bindings/bindings.h"
#include "ops/jagged_pack.h"
#include "ops/offsets.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

using Address = std::uintptr_t;
using Size = std::int64_t;

PackArgs pack_args(Address offsets, Size num_rows, Size bytes, int num_threads) {
  return {as_pointer<const Size>(offsets), num_rows, bytes, num_threads};
}

template <class T>
std::vector<T*> pointers(const std::vector<Address>& addresses) {
  std::vector<T*> found;
  for (const Address address : addresses) found.push_back(as_pointer<T>(address));
  return found;
}

void register_products(py::module_& m) {
  m.def(
      "segment_sum",
      [](Address values, int element, Address order, Address offsets, Size num_rows, Size width, Address to,
         int num_threads, Address out) {
        py::gil_scoped_release unlocked;
        segment_sum({as_pointer<const void>(values), element, as_pointer<const Size>(order),
                     as_pointer<const Size>(offsets), num_rows, width, as_pointer<const Size>(to), num_threads},
                    as_pointer<float>(out));
      },
      py::kw_only(), py::arg("values"), py::arg("element"), py::arg("order"), py::arg("offsets"), py::arg("num_rows"),
      py::arg("width"), py::arg("to"), py::arg("num_threads"), py::arg("out"));
  m.def(
      "jagged_dense_matmul",
      [](Address offsets, Size num_rows, Size depth, Size num_columns, bool transposed, int num_threads, Address values,
         Address dense, Address bias, Address out) {
        py::gil_scoped_release unlocked;
        jagged_dense_matmul({as_pointer<const Size>(offsets), num_rows, depth, num_columns, transposed, num_threads},
                            as_pointer<const float>(values), as_pointer<const float>(dense),
                            as_pointer<const float>(bias), as_pointer<float>(out));
      },
      py::kw_only(), py::arg("offsets"), py::arg("num_rows"), py::arg("depth"), py::arg("num_columns"),
      py::arg("transposed"), py::arg("num_threads"), py::arg("values"), py::arg("dense"), py::arg("bias"),
      py::arg("out"));
  m.def(
      "jagged_jagged_matmul",
      [](Address offsets, Size num_rows, Size depth, Size num_columns, int num_threads, Address a, Address b,
         Address out) {
        py::gil_scoped_release unlocked;
        jagged_jagged_matmul({as_pointer<const Size>(offsets), num_rows, depth, num_columns, false, num_threads},
                             as_pointer<const float>(a), as_pointer<const float>(b), as_pointer<float>(out));
      },
      py::kw_only(), py::arg("offsets"), py::arg("num_rows"), py::arg("depth"), py::arg("num_columns"),
      py::arg("num_threads"), py::arg("a"), py::arg("b"), py::arg("out"));
}

}  // namespace

void register_jagged_pack(py::module_& m) {
  m.def(
      "check_offsets",
      [](const std::string& op, const std::string& name, Address offsets, Size num_rows, Size total) {
        py::gil_scoped_release unlocked;
        check_offsets(op, name, as_pointer<const Size>(offsets), num_rows, total);
      },
      py::kw_only(), py::arg("op"), py::arg("name"), py::arg("offsets"), py::arg("num_rows"), py::arg("total"));
  m.def(
      "jagged_pad",
      [](Address offsets, Size num_rows, Size bytes, int num_threads, Address values, Size max_len, Address padding,
         Size item_size, Address padded) {
        py::gil_scoped_release unlocked;
        jagged_pad(pack_args(offsets, num_rows, bytes, num_threads), as_pointer<const void>(values), max_len,
                   as_pointer<const void>(padding), item_size, as_pointer<void>(padded));
      },
      py::kw_only(), py::arg("offsets"), py::arg("num_rows"), py::arg("bytes"), py::arg("num_threads"),
      py::arg("values"), py::arg("max_len"), py::arg("padding"), py::arg("item_size"), py::arg("padded"));
  m.def(
      "jagged_unpad",
      [](Address offsets, Size num_rows, Size bytes, int num_threads, Address padded, Size max_len, Address values) {
        py::gil_scoped_release unlocked;
        jagged_unpad(pack_args(offsets, num_rows, bytes, num_threads), as_pointer<const void>(padded), max_len,
                     as_pointer<void>(values));
      },
      py::kw_only(), py::arg("offsets"), py::arg("num_rows"), py::arg("bytes"), py::arg("num_threads"),
      py::arg("padded"), py::arg("max_len"), py::arg("values"));
  m.def(
      "jagged_spread",
      [](Address offsets, Size num_rows, Size bytes, int num_threads, Address rows, Address values) {
        py::gil_scoped_release unlocked;
        jagged_spread(pack_args(offsets, num_rows, bytes, num_threads), as_pointer<const void>(rows),
                      as_pointer<void>(values));
      },
      py::kw_only(), py::arg("offsets"), py::arg("num_rows"), py::arg("bytes"), py::arg("num_threads"), py::arg("rows"),
      py::arg("values"));
  m.def(
      "jagged_join",
      [](const std::vector<Address>& offsets, Size num_rows, Size bytes, int num_threads, bool back,
         const std::vector<Address>& parts, Address joined) {
        py::gil_scoped_release unlocked;
        const auto starts = pointers<const Size>(offsets);
        const JoinArgs args{starts.data(), static_cast<Size>(starts.size()), num_rows, bytes, num_threads};
        if (back)
          jagged_part(args, as_pointer<const void>(joined), pointers<void>(parts).data());
        else
          jagged_join(args, pointers<const void>(parts).data(), as_pointer<void>(joined));
      },
      py::kw_only(), py::arg("offsets"), py::arg("num_rows"), py::arg("bytes"), py::arg("num_threads"), py::arg("back"),
      py::arg("parts"), py::arg("joined"));
  m.def(
      "gather_rows",
      [](Address table, Size table_rows, Size bytes, Address ids, Size count, int num_threads, Address out) {
        py::gil_scoped_release unlocked;
        gather_rows(as_pointer<const void>(table), table_rows, bytes, as_pointer<const Size>(ids), count, num_threads,
                    as_pointer<void>(out));
      },
      py::kw_only(), py::arg("table"), py::arg("table_rows"), py::arg("bytes"), py::arg("ids"), py::arg("count"),
      py::arg("num_threads"), py::arg("out"));
  m.def(
      "group_ids",
      [](Address ids, Size count, Size table_rows, Address order, Address unique, Address starts) {
        py::gil_scoped_release unlocked;
        return group_ids(as_pointer<const Size>(ids), count, table_rows, as_pointer<Size>(order),
                         as_pointer<Size>(unique), as_pointer<Size>(starts));
      },
      py::kw_only(), py::arg("ids"), py::arg("count"), py::arg("table_rows"), py::arg("order"), py::arg("unique"),
      py::arg("starts"));
  register_products(m);
}

}  // namespace genrec::bindings
