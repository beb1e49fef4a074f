#include <pybind11/stl.h>

#include <tuple>

#include "bindings/trie_arguments.h"
#include "ops/trie_build.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

using Addresses = std::vector<std::uintptr_t>;
using Numbers = std::vector<std::int64_t>;

// (address, bytes per code, signed, items, levels, item stride in bytes, level stride in bytes)
using CodesArgument = std::tuple<std::uintptr_t, int, bool, std::int64_t, int, std::int64_t, std::int64_t>;
using Pair = std::tuple<std::uintptr_t, std::uintptr_t>;

int checked_levels(std::int64_t levels) {
  check(levels >= 1 && levels <= max_trie_levels, "build_trie: levels must be in [1, 8], got ", levels);
  return static_cast<int>(levels);
}

CodeArray code_array(const CodesArgument& c, std::size_t levels) {
  const auto [data, item_size, is_signed, num_items, num_levels, item_stride, level_stride] = c;
  check(static_cast<std::size_t>(checked_levels(num_levels)) == levels, "build_trie: codebook_sizes must have ",
        num_levels, " entries, got ", levels);
  return {as_pointer<const void>(data), item_size, is_signed, num_items, num_levels, item_stride, level_stride};
}

KeyLayout layout_of(const Numbers& codebook_sizes) {
  for (const std::int64_t size : codebook_sizes)
    check(size >= 1 && size <= max_code + 1, "build_trie: codebook_sizes must be in [1, 65536], got ", size);
  return key_layout(checked_levels(static_cast<std::int64_t>(codebook_sizes.size())), codebook_sizes.data());
}

}  // namespace

void register_trie_build(py::module_& m) {
  m.def(
      "trie_build_range",
      [](const CodesArgument& codes, const Numbers& limits) {
        Numbers maxima(limits.size());
        const CodeArray array = code_array(codes, limits.size());
        py::gil_scoped_release unlocked;
        trie_build_range(array, limits.data(), maxima.data());
        return maxima;
      },
      py::kw_only(), py::arg("codes"), py::arg("limits"));
  m.def(
      "trie_build_words", [](const Numbers& codebook_sizes) { return layout_of(codebook_sizes).num_words; },
      py::kw_only(), py::arg("codebook_sizes"));
  m.def(
      "trie_build_sort",
      [](const CodesArgument& codes, const Numbers& codebook_sizes, const Pair& keys, const Pair& items) {
        const CodeArray array = code_array(codes, codebook_sizes.size());
        std::uint64_t* const key_buffers[2] = {as_pointer<std::uint64_t>(std::get<0>(keys)),
                                               as_pointer<std::uint64_t>(std::get<1>(keys))};
        std::int32_t* const item_buffers[2] = {as_pointer<std::int32_t>(std::get<0>(items)),
                                               as_pointer<std::int32_t>(std::get<1>(items))};
        py::gil_scoped_release unlocked;
        return trie_build_sort(array, layout_of(codebook_sizes), key_buffers, item_buffers);
      },
      py::kw_only(), py::arg("codes"), py::arg("codebook_sizes"), py::arg("keys"), py::arg("items"));
  m.def(
      "trie_build_size",
      [](std::uintptr_t keys, std::int64_t num_items, const Numbers& codebook_sizes) {
        py::gil_scoped_release unlocked;
        const TrieSizes sizes =
            trie_build_size(as_pointer<const std::uint64_t>(keys), num_items, layout_of(codebook_sizes));
        const std::size_t levels = codebook_sizes.size();
        return std::make_tuple(Numbers(sizes.num_edges, sizes.num_edges + levels),
                               Numbers(sizes.max_child_delta, sizes.max_child_delta + levels), sizes.max_leaf_delta);
      },
      py::kw_only(), py::arg("keys"), py::arg("num_items"), py::arg("codebook_sizes"));
  m.def(
      "trie_build",
      [](std::uintptr_t keys, std::int64_t num_items, const Numbers& codebook_sizes, const Addresses& tokens,
         const Numbers& token_widths, const Addresses& bases, const Addresses& deltas, const Numbers& delta_widths) {
        // bases, deltas and delta_widths have one entry more than there are levels: the leaf offsets.
        const KeyLayout layout = layout_of(codebook_sizes);
        const std::size_t levels = codebook_sizes.size();
        check(tokens.size() == levels && token_widths.size() == levels && bases.size() == levels + 1 &&
                  deltas.size() == levels + 1 && delta_widths.size() == levels + 1,
              "build_trie: every list of outputs must match the ", levels, " levels");
        TrieOut out{};
        for (std::size_t l = 0; l <= levels; ++l) {
          OffsetsOut& offsets = l < levels ? out.child[l] : out.leaf;
          offsets = {as_pointer<std::int32_t>(bases[l]), as_pointer<void>(deltas[l]),
                     static_cast<int>(delta_widths[l])};
          if (l == levels) break;
          out.tokens[l] = as_pointer<void>(tokens[l]);
          out.token_widths[l] = static_cast<int>(token_widths[l]);
        }
        py::gil_scoped_release unlocked;
        trie_build(as_pointer<const std::uint64_t>(keys), num_items, layout, out);
      },
      py::kw_only(), py::arg("keys"), py::arg("num_items"), py::arg("codebook_sizes"), py::arg("tokens"),
      py::arg("token_widths"), py::arg("bases"), py::arg("deltas"), py::arg("delta_widths"));
  m.def(
      "trie_check",
      [](const std::vector<LevelArgument>& levels, const Numbers& codebook_sizes, std::uintptr_t leaf_bases,
         std::int64_t num_leaf_bases, std::uintptr_t leaf_deltas, int leaf_width, std::uintptr_t leaf_items,
         std::int64_t num_items) {
        const TrieView view = view_of("Trie", levels, codebook_sizes);
        const PackedOffsets leaf = {as_pointer<const std::int32_t>(leaf_bases), as_pointer<const void>(leaf_deltas),
                                    leaf_width, num_leaf_bases};
        py::gil_scoped_release unlocked;
        trie_check(view, leaf, as_pointer<const std::int32_t>(leaf_items), num_items);
      },
      py::kw_only(), py::arg("levels"), py::arg("codebook_sizes"), py::arg("leaf_bases"), py::arg("num_leaf_bases"),
      py::arg("leaf_deltas"), py::arg("leaf_width"), py::arg("leaf_items"), py::arg("num_items"));
}

}  // namespace genrec::bindings
