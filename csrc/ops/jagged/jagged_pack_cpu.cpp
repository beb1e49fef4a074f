#include <cstdint>

#include "core/gemm.h"
#include "ops/jagged/jagged_pack.h"
#include "ops/jagged/jagged_product.h"

namespace genrec::GENREC_ISA {
namespace {

struct Floats {
  using Element = float;
  static GENREC_INLINE Vec read(const Element* p) { return load(p); }
};
struct BFloats {
  using Element = std::uint16_t;
  static GENREC_INLINE Vec read(const Element* p) { return load_bfloat16(p); }
};
struct Halves {
  using Element = std::uint16_t;
  static GENREC_INLINE Vec read(const Element* p) { return load_half(p); }
};

// Vecs * 16 columns at a time: a column's sum is one chain in the order of the elements, whatever the set.
template <class Kind, int Vecs>
GENREC_INLINE void add_columns(const SegmentArgs& args, std::int64_t first, std::int64_t last, std::int64_t column,
                               float* out) {
  const auto* values = static_cast<const typename Kind::Element*>(args.values) + column;
  Vec sums[Vecs];
  for (int v = 0; v < Vecs; ++v) sums[v] = fill(0.0f);
  for (std::int64_t e = first; e < last; ++e) {
    const auto* from = values + (args.order ? args.order[e] : e) * args.width;
    for (int v = 0; v < Vecs; ++v) sums[v] = sums[v] + Kind::read(from + v * lanes);
  }
  for (int v = 0; v < Vecs; ++v) store(out + column + v * lanes, sums[v]);
}

// Fewer than 16 columns, which must not be read beyond.
template <class Kind>
inline void add_tail(const SegmentArgs& args, std::int64_t first, std::int64_t last, std::int64_t column, float* out) {
  using Element = typename Kind::Element;
  const auto* values = static_cast<const Element*>(args.values) + column;
  const int count = static_cast<int>(args.width - column);
  Vec sums = fill(0.0f);
  Element line[lanes] = {};
  for (std::int64_t e = first; e < last; ++e) {
    const Element* from = values + (args.order ? args.order[e] : e) * args.width;
    for (int i = 0; i < count; ++i) line[i] = from[i];
    sums = sums + Kind::read(line);
  }
  float found[lanes];
  store(found, sums);
  for (int i = 0; i < count; ++i) out[column + i] = found[i];
}

template <class Kind>
inline void add_rows(const SegmentArgs& args, std::int64_t first, std::int64_t last, float* out) {
  for (std::int64_t row = first; row < last; ++row) {
    const std::int64_t begin = args.offsets[row], end = args.offsets[row + 1];
    float* to = out + (args.to ? args.to[row] : row) * args.width;
    std::int64_t column = 0;
    for (; column + 4 * lanes <= args.width; column += 4 * lanes) add_columns<Kind, 4>(args, begin, end, column, to);
    for (; column + lanes <= args.width; column += lanes) add_columns<Kind, 1>(args, begin, end, column, to);
    if (column < args.width) add_tail<Kind>(args, begin, end, column, to);
  }
}

// Sums of a product begin at `start_row` (the same for all rows), at what `out` holds, or at 0.
struct Sums {
  const float* start_row;
  bool go_on;
  float* out;
  std::int64_t stride, num_columns;

  GENREC_INLINE Vec part(const float* from, std::int64_t column) const {
    if (column + lanes <= num_columns) return load(from + column);
    float line[lanes] = {};
    for (int i = 0; column + i < num_columns; ++i) line[i] = from[column + i];
    return load(line);
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void start(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) const {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) {
        const float* from = go_on ? out + (row + r) * stride : start_row;
        sums[r][v] = from ? part(from, column + v * lanes) : fill(0.0f);
      }
  }
  template <int Rows, int Vecs>
  GENREC_INLINE void finish(std::int64_t row, std::int64_t column, Vec (&sums)[Rows][Vecs]) const {
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vecs; ++v) {
        const std::int64_t first = column + v * lanes;
        float* to = out + (row + r) * stride + first;
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

void segment_sum_part(const SegmentArgs& args, std::int64_t first, std::int64_t last, float* out) {
  if (args.element == 0)
    add_rows<Floats>(args, first, last, out);
  else if (args.element == 1)
    add_rows<BFloats>(args, first, last, out);
  else
    add_rows<Halves>(args, first, last, out);
}

ProductSizes product_sizes(std::int64_t depth) {
  // Panels of a quarter of a second cache of 1 MiB, as gemm's.
  const std::int64_t panels = (std::int64_t{1} << 16) / ((depth < 1 ? 1 : depth) * panel_width);
  return {panel_width, (panels < 1 ? 1 : panels) * panel_width};
}

// Elements [first, last) of one row times its matrix.
void dense_part(const JaggedProduct& args, std::int64_t row, std::int64_t first, std::int64_t last, const float* values,
                const float* dense, const float* bias, float* panels, float* out) {
  const std::int64_t depth = args.depth, columns = args.num_columns, chunk = product_sizes(depth).chunk;
  const float* matrix = dense + row * depth * columns;
  for (std::int64_t column = 0; column < columns; column += chunk) {
    const std::int64_t here = columns - column < chunk ? columns - column : chunk;
    if (args.transposed)
      pack(matrix + column * depth, depth, 0, here, depth, panels);
    else
      pack_rows(matrix + column, columns, depth, depth, here, panels);
    Sums ending{bias ? bias + row * columns + column : nullptr, false, out + first * columns + column, columns, here};
    product(values + first * depth, depth, last - first, panels, 0, num_panels(here), depth, ending);
  }
}

// The sum of outer products of one row's elements.
void jagged_part_product(const JaggedProduct& args, std::int64_t row, const float* a, const float* b, float* panels,
                         float* out) {
  const std::int64_t depth = args.depth, columns = args.num_columns;
  float* matrix = out + row * depth * columns;
  const std::int64_t begin = args.offsets[row], end = args.offsets[row + 1];
  if (begin == end)
    for (std::int64_t i = 0; i < depth * columns; ++i) matrix[i] = 0.0f;
  for (std::int64_t first = begin; first < end; first += product_depth_block) {
    const std::int64_t here = end - first < product_depth_block ? end - first : product_depth_block;
    pack_rows(b + first * columns, columns, here, here, columns, panels);
    Sums ending{nullptr, first > begin, matrix, columns, columns};
    product_of_vectors<Order::by_depth>(a + first * depth, depth, depth, panels, here * panel_width, 0,
                                        (columns + lanes - 1) / lanes, here, ending);
  }
}

}  // namespace genrec::GENREC_ISA
