#include "bindings/bindings.h"
#include "bindings/trie_arguments.h"
#include "ops/trie/trie_places.h"

namespace genrec::bindings {

void register_trie_places(pybind11::module_& m) {
  def<[](Arguments& given) {
    const auto sizes = given.numbers("codebook_sizes");
    const TrieView base = trie_view(given, sizes);
    const TrieView added = trie_view(given, sizes, {"added_tokens", "added_bases", "added_deltas"});
    const auto before = given.many<std::int32_t>("before", only<std::int32_t>, "e", Layout::whole);
    const auto shared = given.many<bool>("shared", only<bool>, "e", Layout::whole);
    const auto levels = static_cast<std::size_t>(added.num_levels);
    check(before.elements.size() == levels && shared.elements.size() == levels,
          "trie_places: before and shared must have a tensor for each of ", levels, " levels");
    for (std::size_t l = 0; l < levels; ++l)
      check(before.elements[l] == added.levels[l].num_edges && shared.elements[l] == added.levels[l].num_edges,
            "trie_places: before and shared must have ", added.levels[l].num_edges, " entries at level ", l);
    const auto unlocked = given.release();
    trie_places(base, added, before.data.data(), shared.data.data());
  }>(m, "trie_places");
}

}  // namespace genrec::bindings
