#include "ops/rq/rq_level.h"
#include "ops/rq/rq_search.h"

namespace genrec::GENREC_ISA {

RqSizes rq_sizes(std::int64_t depth) {
  // A chunk of panels and a block of residuals share the second cache: 256 KiB and 192 KiB, of 1 MiB or 512 KiB.
  // A tile's scores, 24 KiB at most, stay in the first.
  const std::int64_t chunk = (std::int64_t{1} << 16) / depth / panel_width * panel_width;
  const std::int64_t rows = (std::int64_t{3} << 14) / depth / tile_rows * tile_rows;
  const std::int64_t fewest = 2 * panel_width, most_rows = rq_block_rows / tile_rows * tile_rows;
  return {panel_width,
          chunk > 512      ? 512
          : chunk < fewest ? fewest
                           : chunk,
          tile_rows,
          rows > most_rows   ? most_rows
          : rows < tile_rows ? tile_rows
                             : rows,
          GENREC_BF16 != 0};
}

// Fills panels [first, last) of a level, its starts and half norms there, and the bounds over these codes alone. `work`
// takes panel_width * depth floats. Returns the first code that is not finite, or -1.
std::int64_t rq_prepare(RqLevel& level, std::int64_t depth, std::int64_t first, std::int64_t last, float* work) {
  double norm = 0, spread = 0;
  float rounding = 0;
  for (std::int64_t from = first * panel_width; from < last * panel_width; from += panel_width) {
    const std::int64_t here = level.num_codes - from < panel_width ? level.num_codes - from : panel_width;
    const float* codes = level.codebook + from * depth;
    for (std::int64_t j = 0; j < panel_width; ++j) level.starts[from + j] = -infinity;
    for (std::int64_t j = 0; j < here; ++j) {
      const float* c = codes + j * depth;
      const double half = exact_dot(c, c, depth) * 0.5;  // float32 squares do not overflow in float64
      if (!(half < __builtin_inf())) return from + j;
      level.half_norms[from + j] = half;
      norm = half > norm ? half : norm;
      double apart = half;
      if (level.centre) {
        for (std::int64_t d = 0; d < depth; ++d) work[j * depth + d] = c[d] - level.centre[d];
        apart = exact_dot(work + j * depth, work + j * depth, depth) * 0.5;
      }
      spread = apart > spread ? apart : spread;
      // Bounded, since -inf says that a code equals a lower one; a level of such norms is scored in float64 alone.
      level.starts[from + j] = static_cast<float>(apart < 1e38 ? -apart : -1e38);
    }
    const float* shifted = level.centre ? work : codes;
    if (level.panels) pack(shifted, depth, 0, here, depth, level.panels + from * depth);
#if GENREC_BF16
    if (level.panels16) {
      float squares = 0;
      pack(shifted, depth, 0, here, depth, level.panels16 + from * (depth + depth % 2), &squares);
      squares = length_above(squares, depth);
      rounding = squares > rounding ? squares : rounding;
    }
#endif
  }
  level.norm = static_cast<float>(std::sqrt(2 * norm) * (1 + 1e-6)) + 1e-37f;
  level.spread = static_cast<float>(std::sqrt(2 * spread) * (1 + 1e-6)) + 1e-37f;
  level.rounding16 = rounding;
  level.spread16 = level.spread + rounding;
  return -1;
}

}  // namespace genrec::GENREC_ISA
