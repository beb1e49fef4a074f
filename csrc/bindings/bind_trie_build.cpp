#include <tuple>

#include "bindings/bindings.h"
#include "bindings/trie_arguments.h"
#include "ops/trie/trie_build.h"
#include "ops/trie/trie_check.h"

namespace genrec::bindings {
namespace {

using Numbers = std::vector<std::int64_t>;

int checked_levels(std::int64_t levels) {
  check(levels >= 1 && levels <= max_trie_levels, "build_trie: levels must be in [1, 8], got ", levels);
  return static_cast<int>(levels);
}

KeyLayout layout_of(const Numbers& codebook_sizes) {
  for (const std::int64_t size : codebook_sizes)
    check(size >= 1 && size <= max_code + 1, "build_trie: codebook_sizes must be in [1, 65536], got ", size);
  return key_layout(checked_levels(static_cast<std::int64_t>(codebook_sizes.size())), codebook_sizes.data());
}

// Semantic IDs may be numpy's, and lie anyhow: address, bytes per code, whether it is signed, items, levels, and the
// strides of both in bytes.
CodeArray code_array(Arguments& given, std::size_t levels) {
  const Numbers c = given.numbers("codes");
  check(c.size() == 7, "build_trie: codes must be 7 numbers, got ", c.size());
  check(static_cast<std::size_t>(checked_levels(c[4])) == levels, "build_trie: codebook_sizes must have ", c[4],
        " entries, got ", levels);
  return {
      reinterpret_cast<const void*>(c[0]), static_cast<int>(c[1]), c[2] != 0, c[3], static_cast<int>(c[4]), c[5], c[6]};
}

const std::uint64_t* sorted_keys(Arguments& given) {
  return reinterpret_cast<const std::uint64_t*>(given.in<std::int64_t>("keys", "Q"));
}

}  // namespace

void register_trie_build(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Numbers limits = given.numbers("limits");
    const CodeArray codes = code_array(given, limits.size());
    Numbers maxima(limits.size());
    const auto unlocked = given.release();
    trie_build_range(codes, limits.data(), maxima.data());
    return maxima;
  }>(m, "trie_build_range");
  def<[](Arguments& given) { return layout_of(given.numbers("codebook_sizes")).num_words; }>(m, "trie_build_words");
  def<[](Arguments& given) {
    const Numbers sizes = given.numbers("codebook_sizes");
    const CodeArray codes = code_array(given, sizes.size());
    const KeyLayout layout = layout_of(sizes);
    given.set_size('Q', codes.num_items * layout.num_words);
    given.set_size('I', codes.num_items);
    const auto keys = given.many<std::uint64_t>("keys", only<std::int64_t>, "Q", Layout::whole);
    const auto items = given.many<std::int32_t>("items", only<std::int32_t>, "I", Layout::whole);
    check(keys.count() == 2 && items.count() == 2, "build_trie: keys and items must be two of each");
    const auto unlocked = given.release();
    return trie_build_sort(codes, layout, keys.data.data(), items.data.data());
  }>(m, "trie_build_sort");
  def<[](Arguments& given) {
    const Numbers sizes = given.numbers("codebook_sizes");
    const KeyLayout layout = layout_of(sizes);
    const std::uint64_t* const keys = sorted_keys(given);
    const std::int64_t items = given.size('Q') / layout.num_words;
    const auto levels = static_cast<std::ptrdiff_t>(sizes.size());
    const auto unlocked = given.release();
    const TrieSizes found = trie_build_size(keys, items, layout);
    return std::make_tuple(Numbers(found.num_edges, found.num_edges + levels),
                           Numbers(found.max_child_delta, found.max_child_delta + levels), found.max_leaf_delta);
  }>(m, "trie_build_size");
  def<[](Arguments& given) {
    const Numbers sizes = given.numbers("codebook_sizes");
    const KeyLayout layout = layout_of(sizes);
    const std::uint64_t* const keys = sorted_keys(given);
    // bases and deltas have one entry more than there are levels: the leaf offsets
    const auto tokens = given.objects("tokens"), bases = given.objects("bases"), deltas = given.objects("deltas");
    const std::size_t levels = sizes.size();
    check(tokens.size() == levels && bases.size() == levels + 1 && deltas.size() == levels + 1,
          "build_trie: every list of outputs must match the ", levels, " levels");
    TrieOut out{};
    for (std::size_t l = 0; l <= levels; ++l) {
      const auto read = [&](const char* name, PyObject* object, const Dtypes& dtypes, const char* shape) {
        return given.read({given.op(), name, static_cast<int>(l), true}, object, dtypes, shape, Layout::whole);
      };
      const Tensor first = read("bases", bases[l], only<std::int32_t>, "b");
      const Tensor offsets = read("deltas", deltas[l], delta_dtypes, "n");
      (l < levels ? out.child[l] : out.leaf) = {static_cast<std::int32_t*>(first.data), offsets.data,
                                                static_cast<int>(offsets.element_size())};
      if (l == levels) break;
      const Tensor codes = read("tokens", tokens[l], token_dtypes, "e");
      out.tokens[l] = codes.data;
      out.token_widths[l] = static_cast<int>(codes.element_size());
    }
    const std::int64_t items = given.size('Q') / layout.num_words;
    const auto unlocked = given.release();
    trie_build(keys, items, layout, out);
  }>(m, "trie_build");
  def<[](Arguments& given) {
    const Numbers sizes = given.numbers("codebook_sizes");
    const TrieView view = trie_view(given, sizes);
    const Tensor bases = given.tensor("leaf_bases", only<std::int32_t>, "P", Layout::whole);
    const Tensor deltas = given.tensor("leaf_deltas", delta_dtypes, "R+1", Layout::whole);
    const auto* const leaf_items = given.in<std::int32_t>("leaf_items", "N");
    const std::int64_t items = given.size('N');
    const auto unlocked = given.release();
    trie_check(view, packed_offsets(bases, deltas), leaf_items, items);
  }>(m, "trie_check");
}

}  // namespace genrec::bindings
