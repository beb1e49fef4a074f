#include "ops/rq_level.h"
#include "ops/rq_search.h"

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

// Fills panels [first, last) of a level, its starts and half norms there, and the bounds over these codes alone.
// Returns the first code that is not finite, or -1.
std::int64_t rq_prepare(RqLevel& level, std::int64_t depth, std::int64_t first, std::int64_t last) {
  const std::int64_t from = first * panel_width;
  const std::int64_t until = last * panel_width < level.num_codes ? last * panel_width : level.num_codes;
  for (std::int64_t k = from; k < last * panel_width; ++k) level.starts[k] = -infinity;
  double largest = 0;
  for (std::int64_t k = from; k < until; ++k) {
    const float* c = level.codebook + k * depth;
    level.half_norms[k] = exact_dot(c, c, depth) * 0.5;  // float32 squares do not overflow in float64
    if (!(level.half_norms[k] < __builtin_inf())) return k;
    // Bounded, since -inf says that a code equals a lower one; a level of such norms is scored in float64 alone.
    level.starts[k] = static_cast<float>(level.half_norms[k] < 1e38 ? -level.half_norms[k] : -1e38);
    largest = level.half_norms[k] > largest ? level.half_norms[k] : largest;
  }
  level.norm = static_cast<float>(std::sqrt(2 * largest) * (1 + 1e-6)) + 1e-37f;
  if (level.panels) pack(level.codebook, depth, from, until, depth, level.panels);
#if GENREC_BF16
  if (level.panels16) {
    float squares = 0;
    pack(level.codebook, depth, from, until, depth, level.panels16, &squares);
    level.rounding16 = length_above(squares, depth);
    level.norm16 = level.norm + level.rounding16;
  }
#endif
  return -1;
}

}  // namespace genrec::GENREC_ISA
