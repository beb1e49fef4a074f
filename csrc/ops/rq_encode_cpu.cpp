#include "ops/rq_encode.h"
#include "ops/rq_search.h"

namespace genrec::GENREC_ISA {
namespace {

// r as bfloat16, a zero behind an odd depth; the length of what rounding took away, not below.
float round_row(const float* r, std::int64_t depth, std::uint16_t* out) {
  float squares = 0;
  std::int64_t d = 0;
#if GENREC_BF16
  Vec total = fill(0.0f);
  for (; d + lanes <= depth; d += lanes) {
    const Vec lost = round_to_bfloat16(r + d, out + d);
    total = multiply_add(lost, lost, total);
  }
  squares = sum(total);
#endif
  for (; d < depth; ++d) {
    out[d] = bfloat16_of(r[d]);
    const float lost = r[d] - float_of(static_cast<std::uint32_t>(out[d]) << 16);
    squares += lost * lost;
  }
  if (depth % 2 != 0) out[depth] = 0;
  return length_above(squares, depth);
}

}  // namespace

// Codes of rows [first, last) of x, one block.
RqFault rq_encode_rows(const RqEncodeArgs& args, const RqLevel* levels, std::int64_t first, std::int64_t last,
                       const RqScratch& scratch) {
  const std::int64_t depth = args.depth, even = depth + depth % 2;
  const int count = static_cast<int>(last - first);
  float squares[rq_block_rows];
  Row row[rq_block_rows];
  Shortlist lists[rq_block_rows];
  for (int r = 0; r < count; ++r) {
    float* residual = scratch.residual + r * depth;
    if (!take_row(args, first + r, residual)) return {first + r, -1};
    squares[r] = squares_of(residual, depth);
  }
  for (int l = 0; l < args.num_levels; ++l) {
    const RqLevel& level = levels[l];
    const bool coarse = level.panels16 != nullptr;
    const float* rows = level.center ? scratch.shifted : scratch.residual;
    for (int r = 0; r < count; ++r) {
      row[r].reach = row[r].norm = length_above(squares[r], depth);
      if (level.center)
        row[r].norm =
            length_above(shift(scratch.residual + r * depth, level.center, depth, scratch.shifted + r * depth), depth);
      // Else a product could leave float32.
      row[r].regular = row[r].reach < 1e18f && row[r].norm < 1e18f && level.reach < 1e18f && level.norm < 1e18f;
      lists[r].reset(slack32(level, row[r], depth));
      if (!coarse) continue;
      const float lost = round_row(rows + r * depth, depth, scratch.residual16 + r * even);
      lists[r].slack += 2.02f * (lost * level.norm16 + row[r].norm * level.rounding16);
    }
#if GENREC_BF16
    if (coarse)
      shortlist<std::uint16_t>(level, scratch.residual16, even, level.panels16, count, scratch.scores, scratch.chunk,
                               row, lists);
#endif
    if (!coarse && level.panels)
      shortlist<float>(level, rows, depth, level.panels, count, scratch.scores, scratch.chunk, row, lists);
    for (int r = 0; r < count; ++r) {
      float* residual = scratch.residual + r * depth;
      const Shortlist* list = level.panels || coarse ? &lists[r] : nullptr;
      const std::int32_t code = resolve(level, residual, rows + r * depth, depth, row[r], list, coarse);
      args.codes[(first + r) * args.num_levels + l] = code;
      if (l + 1 == args.num_levels) continue;
      squares[r] = subtract(residual, level.codebook + code * depth, depth);
      if (!(squares[r] < infinity) && !finite(residual, depth)) return {first + r, l};
    }
  }
  return {-1, -1};
}

}  // namespace genrec::GENREC_ISA
