#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"
#include "ops/trie_step.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

// Per level from the one in question on: tokens, bytes of a token, edges, bases, deltas, bytes of a delta, nodes.
using LevelArgument = std::array<std::int64_t, 7>;
// Bits, ranks, users, words, excluded rows, their offsets; addresses are 0 where there is none.
using FilterArgument = std::array<std::int64_t, 6>;

template <typename T>
T* pointer(std::int64_t address) {
  return as_pointer<T>(static_cast<std::uintptr_t>(address));
}

TrieView view_of(const std::vector<LevelArgument>& levels, std::int64_t codes) {
  check(!levels.empty() && levels.size() <= max_trie_levels, "trie_step: levels must be in [1, 8], got ",
        levels.size());
  TrieView view{};
  view.num_levels = static_cast<int>(levels.size());
  for (std::size_t l = 0; l < levels.size(); ++l) {
    const auto [tokens, token_width, edges, bases, deltas, delta_width, nodes] = levels[l];
    view.levels[l] = {pointer<const void>(tokens),
                      static_cast<int>(token_width),
                      static_cast<int>(codes),  // of the first level; not read of the others
                      nodes,
                      edges,
                      {pointer<const std::int32_t>(bases), pointer<const void>(deltas), static_cast<int>(delta_width)}};
  }
  return view;
}

}  // namespace

void register_trie_step(py::module_& m) {
  m.def(
      "trie_step",
      [](const std::vector<LevelArgument>& levels, const FilterArgument& filter, std::int64_t logits, int logit_type,
         const std::array<std::int64_t, 5>& layout, std::int64_t nodes, std::int64_t scores, std::int64_t num_beams,
         bool valid_only, std::int64_t log_sums, const std::array<std::int64_t, 3>& out, int num_threads) {
        const auto [users, beams, codes, user_stride, beam_stride] = layout;
        const auto [bits, ranks, filter_users, words, excluded, excluded_offsets] = filter;
        const TrieStepArgs args{
            view_of(levels, codes),
            {pointer<const std::uint64_t>(bits), pointer<const std::int32_t>(ranks), words, filter_users,
             pointer<const std::int32_t>(excluded), pointer<const std::int64_t>(excluded_offsets)},
            pointer<const void>(logits),
            static_cast<LogitType>(logit_type),
            user_stride,
            beam_stride,
            users,
            beams,
            codes,
            pointer<const std::int32_t>(nodes),
            pointer<const float>(scores),
            num_beams,
            valid_only,
            pointer<const float>(log_sums)};
        auto* const picked = pointer<std::int32_t>(out[1]);
        const std::int64_t size = users * num_beams;
        const TrieStepOutputs outputs{pointer<float>(out[0]), picked, picked + size, picked + 2 * size,
                                      pointer<float>(out[2])};
        py::gil_scoped_release unlocked;
        trie_step(args, outputs, num_threads);
      },
      // `out`: scores, then codes, parents and nodes as one [3, B, num_beams], then bound.
      // Positional, unlike the other ops: this one is called once per level of every search, and names cost 1 us.
      py::arg("levels"), py::arg("filter"), py::arg("logits"), py::arg("logit_type"), py::arg("layout"),
      py::arg("nodes"), py::arg("scores"), py::arg("num_beams"), py::arg("valid_only"), py::arg("log_sums"),
      py::arg("out"), py::arg("num_threads"));
}

}  // namespace genrec::bindings
