#include <pybind11/stl.h>

#include <array>
#include <vector>

#include "bindings/trie_arguments.h"
#include "ops/trie_step.h"

namespace py = pybind11;

namespace genrec::bindings {

void register_trie_step(py::module_& m) {
  m.def(
      "trie_step",
      [](const std::vector<LevelArgument>& levels, const FilterArgument& filter, std::int64_t logits, int logit_type,
         const std::array<std::int64_t, 5>& layout, std::int64_t nodes, std::int64_t scores, std::int64_t num_beams,
         bool valid_only, std::int64_t log_sums, const std::array<std::int64_t, 3>& out, int num_threads) {
        const auto [users, beams, codes, user_stride, beam_stride] = layout;
        const TrieStepArgs args{
            view_of("trie_step", levels, {codes}),  // the first level's; of the others it is not read
            filter_of(filter),
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
