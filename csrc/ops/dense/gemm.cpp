#include "ops/dense/gemm.h"

#include <algorithm>
#include <cstring>

#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(GemmSizes gemm_sizes(std::int64_t depth, int element_size);
               void gemm_pack_panels(const float* b, std::int64_t num_columns, std::int64_t depth, int element_size,
                                     std::int64_t first, std::int64_t last, void* panels);
               void gemm_round_rows(const float* a, std::int64_t depth, std::int64_t stride, std::int64_t row,
                                    std::int64_t last_row, std::uint8_t* bytes, float* scales);
               void gemm_part(const GemmArgs& args, const GemmRows& rows, const void* panels, std::int64_t row,
                              std::int64_t last_row, std::int64_t first, std::int64_t last);)

namespace genrec {
namespace {

constexpr std::int64_t panels_per_task = 8;

GemmSizes sizes_of(std::int64_t depth, int element_size) {
  const GemmSizes sizes = GENREC_DISPATCH(gemm_sizes(depth, element_size));
  if (element_size == 2 && !sizes.bfloat16)
    throw UnsupportedError(message("gemm: bfloat16 needs an instruction set that multiplies it (avx512_bf16), got ",
                                   isa_name(active_isa())));
  check(element_size != 1 || depth <= max_int8_depth, "gemm: D must be at most ", max_int8_depth, " in int8, got ",
        depth);
  return sizes;
}

std::int64_t panels_of(std::int64_t num_columns, const GemmSizes& sizes) {
  return (num_columns + sizes.panel_width - 1) / sizes.panel_width;
}

}  // namespace

std::int64_t gemm_pack_size(std::int64_t num_columns, std::int64_t depth, int element_size) {
  const GemmSizes sizes = sizes_of(depth, element_size);
  const std::int64_t columns = panels_of(num_columns, sizes) * sizes.panel_width;
  const std::int64_t header = static_cast<std::int64_t>(sizeof(GemmHeader));
  if (element_size == 1) return header + GemmInt8Block{(depth + 3) / 4 * 4, columns}.bytes();
  return header + columns * (element_size == 2 ? depth + depth % 2 : depth) * element_size;
}

void gemm_pack(const float* b, std::int64_t num_columns, std::int64_t depth, int element_size, int num_threads,
               void* packed) {
  const GemmSizes sizes = sizes_of(depth, element_size);
  const GemmHeader header{sizes.panel_width, element_size, num_columns, depth, {}};
  std::memcpy(packed, &header, sizeof(header));
  void* panels = static_cast<GemmHeader*>(packed) + 1;
  const std::int64_t count = panels_of(num_columns, sizes);
  parallel_for((count + panels_per_task - 1) / panels_per_task, num_threads, [&](std::int64_t task) {
    const std::int64_t first = task * panels_per_task, last = std::min(count, first + panels_per_task);
    GENREC_DISPATCH(gemm_pack_panels(b, num_columns, depth, element_size, first, last, panels));
  });
}

void gemm(const GemmArgs& args) {
  const GemmSizes sizes = sizes_of(args.depth, args.element_size);
  const std::int64_t bytes = gemm_pack_size(args.num_columns, args.depth, args.element_size);
  GemmHeader header{};
  check(args.packed_bytes == bytes, "gemm: packed must be a matrix of ", args.num_columns, " columns and depth ",
        args.depth, " packed for ", isa_name(active_isa()), " (", bytes, " bytes), got ", args.packed_bytes, " bytes");
  std::memcpy(&header, args.packed, sizeof(header));
  check(header.panel_width == sizes.panel_width && header.element_size == args.element_size &&
            header.num_columns == args.num_columns && header.depth == args.depth,
        "gemm: packed must be a matrix of ", args.num_columns, " columns and depth ", args.depth, " packed for ",
        isa_name(active_isa()), ", got ", header.num_columns, " columns of depth ", header.depth, " in panels of ",
        header.panel_width);
  const void* panels = static_cast<const GemmHeader*>(args.packed) + 1;
  const std::int64_t count = panels_of(args.num_columns, sizes);
  // Few rows: threads share the columns; many: they share the rows, each going through all columns.
  const std::int64_t rows_per_task = std::max<std::int64_t>(
      sizes.tile_rows, (args.num_rows / args.num_threads + sizes.tile_rows - 1) / sizes.tile_rows * sizes.tile_rows);
  const std::int64_t row_tasks = (args.num_rows + rows_per_task - 1) / rows_per_task;
  const std::int64_t column_tasks = row_tasks >= args.num_threads ? 1 : std::min<std::int64_t>(count, args.num_threads);
  const int num_threads =
      args.num_rows * args.num_columns * args.depth >= 4'000'000 ? args.num_threads : 1;  // about 100 us of one thread
  GemmRows rows{args.a, args.element_size == 2 ? args.depth + args.depth % 2 : args.depth, nullptr};
  Memory bytes_of_rows, scales_of_rows;
  if (args.element_size == 1) {
    const float* a = static_cast<const float*>(args.a);
    const std::int64_t stride = (args.depth + 63) / 64 * 64;
    bytes_of_rows = Memory(args.num_rows * stride), scales_of_rows = Memory(args.num_rows * 4);
    std::uint8_t* bytes_of = bytes_of_rows.as<std::uint8_t>();
    float* scales = scales_of_rows.as<float>();
    parallel_for(row_tasks, num_threads, [&](std::int64_t task) {
      const std::int64_t row = task * rows_per_task, last = std::min(args.num_rows, row + rows_per_task);
      GENREC_DISPATCH(gemm_round_rows(a, args.depth, stride, row, last, bytes_of, scales));
    });
    rows = {bytes_of, stride, scales};
  }
  parallel_for(row_tasks * column_tasks, num_threads, [&](std::int64_t task) {
    const std::int64_t row = task / column_tasks * rows_per_task, column = task % column_tasks;
    const std::int64_t last_row = std::min(args.num_rows, row + rows_per_task);
    const std::int64_t first = count * column / column_tasks, last = count * (column + 1) / column_tasks;
    for (std::int64_t p = first; p < last; p += sizes.chunk_panels)
      GENREC_DISPATCH(gemm_part(args, rows, panels, row, last_row, p, std::min(last, p + sizes.chunk_panels)));
  });
}

}  // namespace genrec
