#include <cstdint>

#include "core/gemm.h"
#include "core/gemm_int8.h"
#include "ops/dense/gemm.h"

namespace genrec::GENREC_ISA {
namespace {

struct Output {
  const float* start_row;  // or null
  float* out;
  std::int64_t num_columns;

  GENREC_INLINE Vec start_of(std::int64_t first) const {
    if (start_row && first + lanes <= num_columns) return load(start_row + first);
    float line[lanes] = {};
    if (start_row)
      for (int i = 0; i < lanes && first + i < num_columns; ++i) line[i] = start_row[first + i];
    return load(line);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    for (int v = 0; v < Vecs; ++v) {
      const Vec s = start_of(column + v * lanes);
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

// Products of bytes begin at 0: what is to be added first comes last.
struct OutputOfInt8 : Output {
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) {
    if (start_row)
      for (int v = 0; v < Vecs; ++v) {
        const Vec s = start_of(column + v * lanes);
        for (int r = 0; r < Rows; ++r) sums[r][v] = sums[r][v] + s;
      }
    Output::finish<Rows, Vecs>(row, column, sums);
  }
};

GemmInt8Block block_of(std::int64_t num_columns, std::int64_t depth) {
  return {(depth + 3) / 4 * 4, num_panels(num_columns) * panel_width};
}

// Columns [first, last), `first` beginning a panel: each a row of b, made bytes as the rows of a are.
void pack_int8(const float* b, std::int64_t num_columns, std::int64_t depth, std::int64_t first, std::int64_t last,
               std::int8_t* panels) {
  const GemmInt8Block block = block_of(num_columns, depth);
  float* scales = reinterpret_cast<float*>(panels + block.scales());
  std::int32_t* sums = reinterpret_cast<std::int32_t*>(panels + block.sums());
  const std::int64_t until = num_panels(last) * panel_width;
  std::uint8_t line[max_int8_depth] = {};
  for (std::int64_t j = first; j < until; ++j) {
    std::int8_t* to = panels + j / panel_width * panel_width * block.depth + j % panel_width * 4;
    scales[j] = j < last ? quantize_row(b + j * depth, depth, line) : 0.0f;
    sums[j] = 0;
    for (std::int64_t d = 0; d < block.depth; ++d) {
      const int weight = j < last && d < depth ? line[d] - 128 : 0;
      to[d / 4 * panel_width * 4 + d % 4] = static_cast<std::int8_t>(weight);
      sums[j] += weight;
    }
  }
}

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
  if (element_size == 1) return pack_int8(b, num_columns, depth, from, until, static_cast<std::int8_t*>(panels));
  if (element_size == 4) return pack(b, depth, from, until, depth, static_cast<float*>(panels));
#if GENREC_BF16
  float lost = 0;
  pack(b, depth, from, until, depth, static_cast<std::uint16_t*>(panels), &lost);
#endif
}

void gemm_round_rows(const float* a, std::int64_t depth, std::int64_t stride, std::int64_t row, std::int64_t last_row,
                     std::uint8_t* bytes, float* scales) {
  for (; row < last_row; ++row) scales[row] = quantize_row(a + row * depth, depth, bytes + row * stride);
}

// Rows [row, last_row) with panels [first, last).
void gemm_part(const GemmArgs& args, const GemmRows& rows, const void* panels, std::int64_t row, std::int64_t last_row,
               std::int64_t first, std::int64_t last) {
  const std::int64_t place = row * rows.stride, num_rows = last_row - row;
  Output ending{args.start, args.out + row * args.num_columns, args.num_columns};
  if (args.element_size == 1) {
    const std::int8_t* weights = static_cast<const std::int8_t*>(panels);
    const GemmInt8Block block = block_of(args.num_columns, args.depth);
    OutputOfInt8 rounded{ending};
    product_int8(static_cast<const std::uint8_t*>(rows.rows) + place, rows.stride, num_rows, weights, first, last,
                 block.depth,
                 Scales{rows.scales + row, reinterpret_cast<const float*>(weights + block.scales()),
                        reinterpret_cast<const std::int32_t*>(weights + block.sums())},
                 rounded);
  } else if (args.element_size == 4) {
    product(static_cast<const float*>(rows.rows) + place, rows.stride, num_rows, static_cast<const float*>(panels),
            first, last, args.depth, ending);
  }
#if GENREC_BF16
  if (args.element_size == 2)
    product(static_cast<const std::uint16_t*>(rows.rows) + place, rows.stride, num_rows,
            static_cast<const std::uint16_t*>(panels), first, last, rows.stride, ending);
#endif
}

}  // namespace genrec::GENREC_ISA
