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

// Whether codes lie closer together than to 0: then `center` is about their mean, of some of them. Any center is right,
// a good one makes errors small; products of numbers far from 0 lose the digits that tell the codes apart.
bool rq_center(const float* codebook, std::int64_t num_codes, std::int64_t depth, float* center) {
  constexpr std::int64_t looked_at = 64;
  const std::int64_t step = num_codes > looked_at ? num_codes / looked_at : 1;
  const float share = 1.0f / static_cast<float>((num_codes + step - 1) / step);
  float squares = 0;
  for (std::int64_t d = 0; d < depth; ++d) center[d] = 0;
  for (std::int64_t k = 0; k < num_codes; k += step) {
    const float* c = codebook + k * depth;
    squares += share * squares_of(c, depth);
    for (std::int64_t d = 0; d < depth; ++d) center[d] += share * c[d];
  }
  // The center of one code or of equal ones is the code itself, up to rounding: nothing to gain.
  const float own = squares_of(center, depth);
  return num_codes > 1 && own > 0.5f * squares && squares < 1e36f;  // a NaN says no
}

// Fills panels [first, last) of a level, its starts and half norms there, and the bounds over these codes alone.
// Returns the first code that is not finite, or -1.
std::int64_t rq_prepare(RqLevel& level, std::int64_t depth, std::int64_t first, std::int64_t last) {
  const std::int64_t from = first * panel_width;
  const std::int64_t until = last * panel_width < level.num_codes ? last * panel_width : level.num_codes;
  for (std::int64_t k = from; k < last * panel_width; ++k) level.starts[k] = -infinity;
  double largest = 0, longest = 0;
  float* shifted = const_cast<float*>(level.shifted);  // ours where there is a center
  for (std::int64_t k = from; k < until; ++k) {
    const float* c = level.codebook + k * depth;
    level.half_norms[k] = exact_dot(c, c, depth) * 0.5;  // float32 squares do not overflow in float64
    if (!(level.half_norms[k] < __builtin_inf())) return k;
    longest = level.half_norms[k] > longest ? level.half_norms[k] : longest;
    double half_norm = level.half_norms[k];
    if (level.center) {
      for (std::int64_t d = 0; d < depth; ++d) shifted[k * depth + d] = c[d] - level.center[d];
      half_norm = exact_dot(shifted + k * depth, shifted + k * depth, depth) * 0.5;
    }
    // Bounded, since -inf says that a code equals a lower one; a level of such norms is scored in float64 alone.
    level.starts[k] = static_cast<float>(half_norm < 1e38 ? -half_norm : -1e38);
    largest = half_norm > largest ? half_norm : largest;
  }
  level.reach = static_cast<float>(std::sqrt(2 * longest) * (1 + 1e-6)) + 1e-37f;
  level.norm = static_cast<float>(std::sqrt(2 * largest) * (1 + 1e-6)) + 1e-37f;
  if (level.panels) pack(level.shifted, depth, from, until, depth, level.panels);
#if GENREC_BF16
  if (level.panels16) {
    float squares = 0;
    pack(level.shifted, depth, from, until, depth, level.panels16, &squares);
    level.rounding16 = length_above(squares, depth);
    level.norm16 = level.norm + level.rounding16;
  }
#endif
  return -1;
}

}  // namespace genrec::GENREC_ISA
