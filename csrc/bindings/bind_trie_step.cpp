#include "bindings/bindings.h"
#include "bindings/trie_arguments.h"
#include "ops/trie/trie_step.h"

namespace genrec::bindings {

void register_trie_step(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Tensor logits = given.rows("logits", floats, "B N K", 2);
    TrieStepArgs args{};
    args.users = given.size('B');
    args.beams = given.size('N');
    args.codes = given.size('K');
    args.logits = logits.data;
    args.type = static_cast<LogitType>(float_number(logits.dtype));
    args.user_stride = logits.strides[0];
    args.beam_stride = logits.strides[1];
    args.nodes = given.in<std::int32_t>("nodes", "B N");
    args.scores = given.in<float>("scores", "B N");
    args.trie = trie_view(given, {args.codes});  // the first level's size; those of the others are not read
    args.valid_only = given.flag("valid_only");
    args.log_sums = given.maybe<float>("log_sums", "B N");
    args.filter = row_filter(given);
    TrieStepOutputs out{};
    out.scores = given.out<float>("out", "B M");
    out.codes = given.out<std::int32_t>("codes", "B M");
    out.parents = given.out<std::int32_t>("parents", "B M");
    out.nodes = given.out<std::int32_t>("reached", "B M");
    out.bound = given.out<float>("bound", "B");
    args.num_beams = given.size('M');
    const int threads = given.threads();
    const auto unlocked = given.release();
    trie_step(args, out, threads);
  }>(m, "trie_step");
}

}  // namespace genrec::bindings
