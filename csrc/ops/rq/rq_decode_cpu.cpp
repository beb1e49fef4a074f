#include <cstdint>

#include "core/vec.h"
#include "ops/rq/rq_decode.h"

namespace genrec::GENREC_ISA {
namespace {

// Columns [d, d + Vecs * lanes) of one row: the sums stay in registers from level to level and are written once.
template <int Vecs>
inline void add_levels(const float* const* chosen, int num_levels, std::int64_t d, float* out) {
  Vec total[Vecs];
  for (int v = 0; v < Vecs; ++v) total[v] = fill(0.0f);
  for (int l = 0; l < num_levels; ++l)
    for (int v = 0; v < Vecs; ++v) total[v] = total[v] + load(chosen[l] + d + v * lanes);
  for (int v = 0; v < Vecs; ++v) store(out + d + v * lanes, total[v]);
}

template <typename Code>
RqDecodeFault decode(const RqDecodeArgs& args, std::int64_t first, std::int64_t last, const float** chosen) {
  const std::int64_t depth = args.depth;
  for (std::int64_t n = first; n < last; ++n) {
    const Code* codes = static_cast<const Code*>(args.codes) + n * args.num_levels;
    for (int l = 0; l < args.num_levels; ++l) {
      const auto code = static_cast<std::int64_t>(codes[l]);
      if (code < 0 || code >= args.num_codes[l]) return n * args.num_levels + l;
      chosen[l] = args.codebooks[l] + code * depth;
    }
    float* out = args.out + n * depth;
    std::int64_t d = 0;
    for (; d + 4 * lanes <= depth; d += 4 * lanes) add_levels<4>(chosen, args.num_levels, d, out);
    for (; d + lanes <= depth; d += lanes) add_levels<1>(chosen, args.num_levels, d, out);
    for (; d < depth; ++d) {
      float total = 0.0f;
      for (int l = 0; l < args.num_levels; ++l) total += chosen[l][d];
      out[d] = total;
    }
  }
  return -1;
}

}  // namespace

RqDecodeFault rq_decode_rows(const RqDecodeArgs& args, std::int64_t first, std::int64_t last, const float** chosen) {
  return args.code_size == 4 ? decode<std::int32_t>(args, first, last, chosen)
                             : decode<std::int64_t>(args, first, last, chosen);
}

}  // namespace genrec::GENREC_ISA
