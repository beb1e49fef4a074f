#include "ops/rq/rq_encode.h"
#include "ops/rq/rq_search.h"

namespace genrec::GENREC_ISA {
namespace {

#if GENREC_BF16
// r as bfloat16, a zero behind an odd depth; the length of what rounding took away, not below.
float round_row(const float* r, std::int64_t depth, std::uint16_t* out) {
  std::int64_t d = 0;
  Vec total = fill(0.0f);
  for (; d + lanes <= depth; d += lanes) {
    const Vec lost = round_to_bfloat16(r + d, out + d);
    total = multiply_add(lost, lost, total);
  }
  float squares = sum(total);
  for (; d < depth; ++d) {
    out[d] = bfloat16_of(r[d]);
    const float lost = r[d] - float_of(static_cast<std::uint32_t>(out[d]) << 16);
    squares += lost * lost;
  }
  if (depth % 2 != 0) out[depth] = 0;
  return length_above(squares, depth);
}
#endif

// What products read of a block of residuals at a level, and what their scores may be off.
struct Block {
  const RqLevel& level;
  const RqScratch& scratch;
  std::int64_t depth;
  int count;
  Row* row;
  Shortlist* lists;

  float slack(int r) const {
    return slack32(row[r].spread, level.spread, depth) + slack64(row[r].norm, level.norm, depth);
  }
  const float* shifted(int r) const { return (level.centre ? scratch.centred : scratch.residual) + r * depth; }

  // Lengths of the residuals; where the level has a centre, the residuals less the centre.
  void prepare(const float* squares) {
    for (int r = 0; r < count; ++r) {
      row[r].norm = row[r].spread = length_above(squares[r], depth);
      row[r].regular = row[r].norm < 1e18f && level.norm < 1e18f;  // else a product could leave float32
      if (!level.centre) continue;
      float* out = scratch.centred + r * depth;
      const float* residual = scratch.residual + r * depth;
      for (std::int64_t d = 0; d < depth; ++d) out[d] = residual[d];
      row[r].spread = length_above(subtract(out, level.centre, depth), depth);
    }
  }
  void find() {
    for (int r = 0; r < count; ++r) lists[r].reset(slack(r));
    shortlist<float>(level, shifted(0), depth, level.panels, count, scratch.scores, scratch.chunk, row, lists);
  }
#if GENREC_BF16
  // False where many rows are left with more codes than a list holds: rounding is too coarse for these codes.
  bool find_coarsely() {
    const std::int64_t even = depth + depth % 2;
    for (int r = 0; r < count; ++r) {
      const float lost = round_row(shifted(r), depth, scratch.residual16 + r * even);
      lists[r].reset(slack(r));
      lists[r].slack += 2.02f * (lost * level.spread16 + row[r].spread * level.rounding16);
    }
    shortlist<std::uint16_t>(level, scratch.residual16, even, level.panels16, count, scratch.scores, scratch.chunk, row,
                             lists);
    int overflowed = 0;
    for (int r = 0; r < count; ++r) overflowed += lists[r].overflowed ? 1 : 0;
    return overflowed * 8 <= count;
  }
#endif
};

}  // namespace

// Codes of rows [first, last) of x, one block.
RqFault rq_encode_rows(const RqEncodeArgs& args, const RqLevel* levels, std::int64_t first, std::int64_t last,
                       const RqScratch& scratch) {
  const std::int64_t depth = args.depth;
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
    Block block{level, scratch, depth, count, row, lists};
    block.prepare(squares);
    bool coarse = false;
#if GENREC_BF16
    if (level.panels16 && !scratch.too_coarse[l]) {
      coarse = block.find_coarsely();
      scratch.too_coarse[l] = !coarse;
    }
#endif
    if (!coarse && level.panels) block.find();
    for (int r = 0; r < count; ++r) {
      float* residual = scratch.residual + r * depth;
      const std::int32_t code = resolve(level, residual, depth, row[r], level.panels ? &lists[r] : nullptr, coarse);
      args.codes[(first + r) * args.num_levels + l] = code;
      if (l + 1 == args.num_levels) continue;
      squares[r] = subtract(residual, level.codebook + code * depth, depth);
      if (!(squares[r] < infinity) && !finite(residual, depth)) return {first + r, l};
    }
  }
  return {-1, -1};
}

}  // namespace genrec::GENREC_ISA
