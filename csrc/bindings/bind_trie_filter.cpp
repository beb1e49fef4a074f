#include "bindings/bindings.h"
#include "bindings/trie_arguments.h"

namespace genrec::bindings {
namespace {

template <typename To, typename From>
To* as(From* data) {
  return reinterpret_cast<To*>(data);
}

}  // namespace

void register_trie_filter(pybind11::module_& m) {
  def<[](Arguments& given) {
    const auto* const item_rows = given.in<std::int32_t>("item_rows", "N");
    const bool* const allowed = given.in<bool>("allowed", "U A");
    const std::int64_t num_rows = given.number("num_rows");
    given.set_size('W', num_rows / 64 + 1);
    std::int64_t* const bits = given.out<std::int64_t>("bits", "U W");
    std::int32_t* const ranks = given.out<std::int32_t>("ranks", "U W");
    const std::int64_t items = given.size('N'), allowed_items = given.size('A'), users = given.size('U');
    const auto unlocked = given.release();
    trie_filter_allow(item_rows, items, as<const std::uint8_t>(allowed), allowed_items, users, num_rows,
                      as<std::uint64_t>(bits), ranks);
  }>(m, "trie_filter_allow");
  def<[](Arguments& given) {
    const auto* const item_rows = given.in<std::int32_t>("item_rows", "N");
    const Tensor bases = given.tensor("leaf_bases", only<std::int32_t>, "P", Layout::whole);
    const Tensor deltas = given.tensor("leaf_deltas", delta_dtypes, "R+1", Layout::whole);
    const auto* const leaf_items = given.in<std::int32_t>("leaf_items", "I");
    const bool* const allowed = given.maybe<bool>("allowed", "U A");
    const auto* const items = given.in<std::int64_t>("items", "E");
    const auto* const offsets = given.in<std::int64_t>("offsets", "B+1");
    auto* const rows = given.out<std::int32_t>("rows", "E");
    auto* const row_offsets = given.out<std::int64_t>("row_offsets", "B+1");
    const RowItems catalog{item_rows,  given.size('N'), packed_offsets(bases, deltas),
                           leaf_items, given.size('R'), given.size('I')};
    const std::int64_t allowed_items = given.size('A'), users = given.size('U');
    const std::int64_t count = given.size('E'), asking = given.size('B');
    const auto unlocked = given.release();
    trie_filter_exclude(catalog, as<const std::uint8_t>(allowed), allowed_items, users, items, count, offsets, asking,
                        rows, row_offsets);
  }>(m, "trie_filter_exclude");
}

}  // namespace genrec::bindings
