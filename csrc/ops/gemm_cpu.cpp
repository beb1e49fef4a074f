#include <cstdint>

#include "core/gemm.h"
#include "ops/gemm.h"

namespace genrec::GENREC_ISA {
namespace {

struct Output {
  const float* start_row;  // or null
  float* out;
  std::int64_t num_columns;

  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int v = 0; v < Vecs; ++v) {
      float line[lanes] = {};
      const std::int64_t first = column + v * lanes;
      if (start_row)
        for (int i = 0; i < lanes && first + i < num_columns; ++i) line[i] = start_row[first + i];
      const Vec s = load(line);
      for (int r = 0; r < Rows; ++r) sums[r][v] = s;
    }
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) {
        const std::int64_t first = column + v * lanes;
        float* to = out + (row + r) * num_columns + first;
        if (first + lanes <= num_columns) {
          store(to, sums[r][v]);
        } else if (first < num_columns) {
          float line[lanes];
          store(line, sums[r][v]);
          for (int i = 0; first + i < num_columns; ++i) to[i] = line[i];
        }
      }
  }
};

}  // namespace

GemmSizes gemm_sizes(std::int64_t depth, int element_size) {
  // A chunk of panels takes a quarter of a second cache of 1 MiB and is used by all rows before the next.
  const std::int64_t panels = (std::int64_t{1} << 18) / (depth * panel_width * element_size);
  return {panel_width, tile_rows, panels < 1 ? 1 : panels, GENREC_BF16 != 0};
}

void gemm_pack_panels(const float* b, std::int64_t num_columns, std::int64_t depth, int element_size,
                      std::int64_t first, std::int64_t last, void* panels) {
  const std::int64_t from = first * panel_width;
  const std::int64_t until = last * panel_width < num_columns ? last * panel_width : num_columns;
  if (element_size == 4) return pack(b, depth, from, until, depth, static_cast<float*>(panels));
#if GENREC_BF16
  float lost = 0;
  pack(b, depth, from, until, depth, static_cast<std::uint16_t*>(panels), &lost);
#endif
}

// Rows [row, last_row) with panels [first, last).
void gemm_part(const GemmArgs& args, const void* panels, std::int64_t row, std::int64_t last_row, std::int64_t first,
               std::int64_t last) {
  Output ending{args.start, args.out + row * args.num_columns, args.num_columns};
  if (args.element_size == 4) {
    const float* a = static_cast<const float*>(args.a) + row * args.depth;
    product(a, args.depth, last_row - row, static_cast<const float*>(panels), first, last, args.depth, ending);
    return;
  }
#if GENREC_BF16
  const std::int64_t even = args.depth + args.depth % 2;
  const std::uint16_t* a = static_cast<const std::uint16_t*>(args.a) + row * even;
  product(a, even, last_row - row, static_cast<const std::uint16_t*>(panels), first, last, even, ending);
#endif
}

}  // namespace genrec::GENREC_ISA
