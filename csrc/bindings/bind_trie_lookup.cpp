#include "bindings/bindings.h"
#include "bindings/trie_arguments.h"
#include "ops/trie/trie_lookup.h"

namespace genrec::bindings {

void register_trie_lookup(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Tensor codes = given.tensor("codes", integers, "...", Layout::copied);
    const TrieView view = trie_view(given, given.numbers("codebook_sizes"));
    const Tensor nodes = given.tensor("nodes", only<std::int32_t>, "...", Layout::whole);
    const int threads = given.threads();
    const std::int64_t length = codes.dims != 0 ? codes.sizes[codes.dims - 1] : 0, count = nodes.elements();
    check(codes.elements() == count * length, "trie_lookup: nodes must be one per prefix, got ", nodes.text(), " for ",
          codes.text());
    const auto unlocked = given.release();
    trie_lookup(view, codes.data, static_cast<int>(codes.element_size()), count, static_cast<int>(length), threads,
                static_cast<std::int32_t*>(nodes.data));
  }>(m, "trie_lookup");
}

}  // namespace genrec::bindings
