// A trie and a filter of its rows, as the searches take them.
#pragma once
#include "bindings/arguments.h"
#include "ops/trie/trie_filter.h"

namespace genrec::bindings {

inline constexpr Dtypes token_dtypes{"uint8 or uint16", listed<dtype_of<std::uint8_t>(), dtype_of<std::uint16_t>()>};
inline constexpr Dtypes delta_dtypes{
    "uint8, uint16 or int32", listed<dtype_of<std::uint8_t>(), dtype_of<std::uint16_t>(), dtype_of<std::int32_t>()>};

inline PackedOffsets packed_offsets(const Tensor& bases, const Tensor& deltas) {
  return {static_cast<const std::int32_t*>(bases.data), deltas.data, static_cast<int>(deltas.element_size()),
          bases.elements()};
}

// What the arguments that hold a trie's levels are called.
struct TrieNames {
  const char *tokens = "tokens", *bases = "child_bases", *deltas = "child_deltas";
};

// Three lists, one tensor per level from the one in question on. `sizes`: codebook sizes of the first levels; the last
// of them stands for those behind it.
inline TrieView trie_view(Arguments& given, const std::vector<std::int64_t>& sizes, const TrieNames& names = {}) {
  const auto tokens = given.objects(names.tokens), bases = given.objects(names.bases),
             deltas = given.objects(names.deltas);
  const char* const op = given.op();
  check(tokens.size() == bases.size() && tokens.size() == deltas.size(), op,
        ": trie must have tokens, bases and deltas of as many levels each");
  check(!tokens.empty() && tokens.size() <= max_trie_levels, op, ": levels must be in [1, 8], got ", tokens.size());
  check(!sizes.empty(), op, ": codebook_sizes must be given, got none");
  for (const std::int64_t size : sizes)
    check(size >= 1 && size <= max_code + 1, op, ": codebook_sizes must be in [1, 65536], got ", size);
  TrieView view{};
  view.num_levels = static_cast<int>(tokens.size());
  for (std::size_t l = 0; l < tokens.size(); ++l) {
    const auto read = [&](const char* name, PyObject* object, const Dtypes& dtypes, const char* shape) {
      return given.read({op, name, static_cast<int>(l), true}, object, dtypes, shape, Layout::whole);
    };
    const Tensor codes = read(names.tokens, tokens[l], token_dtypes, "e");
    const Tensor first = read(names.bases, bases[l], only<std::int32_t>, "b");
    const Tensor offsets = read(names.deltas, deltas[l], delta_dtypes, "n");
    view.levels[l] = {codes.data,
                      static_cast<int>(codes.element_size()),
                      static_cast<int>(l < sizes.size() ? sizes[l] : sizes.back()),
                      offsets.elements() - 1,
                      codes.elements(),
                      packed_offsets(first, offsets)};
  }
  return view;
}

// `bits` with `ranks` and `excluded` with `excluded_offsets`, or None.
inline RowFilter row_filter(Arguments& given) {
  int found = 0;
  const auto whole = [&](const char* name, const Dtypes& dtypes, const char* shape) -> const void* {
    if (given.is_none(name)) return nullptr;
    ++found;
    return given.tensor(name, dtypes, shape, Layout::whole).data;
  };
  const auto check_pair = [&] {
    check(found % 2 == 0, given.op(),
          ": filter must hold bits with ranks and excluded rows with offsets, got one alone");
  };
  RowFilter out{};
  out.bits = static_cast<const std::uint64_t*>(whole("bits", only<std::int64_t>, "U W"));
  out.ranks = static_cast<const std::int32_t*>(whole("ranks", only<std::int32_t>, "U W"));
  check_pair();
  out.excluded = static_cast<const std::int32_t*>(whole("excluded", only<std::int32_t>, "Y"));
  out.excluded_offsets = static_cast<const std::int64_t*>(whole("excluded_offsets", only<std::int64_t>, "G+1"));
  check_pair();
  out.users = given.size('U');
  out.words = given.size('W');
  out.num_excluded = given.size('Y');
  out.excluded_users = given.size('G');
  return out;
}

}  // namespace genrec::bindings
