#include "ops/jagged/jagged_product.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "core/isa.h"
#include "core/memory.h"
#include "core/parallel.h"

GENREC_PER_ISA(ProductSizes product_sizes(std::int64_t depth);
               void dense_part(const JaggedProduct& args, std::int64_t row, std::int64_t first, std::int64_t last,
                               const float* values, const float* dense, const float* bias, float* panels, float* out);
               void jagged_part_product(const JaggedProduct& args, std::int64_t row, const float* a, const float* b,
                                        float* panels, float* out);)

namespace genrec {
namespace {

constexpr double flops_per_fork = 8e6;           // about 100 us of one thread
constexpr std::int64_t elements_per_task = 480;  // of one row, so that a long row is shared; a multiple of every tile

struct Stretch {
  std::int64_t row, first, last;
};

// Calls body(task, working memory of `floats`) for every task, on as many threads as the work is worth.
template <class Body>
void for_tasks(const std::vector<Stretch>& tasks, double flops, int num_threads, std::int64_t floats,
               const Body& body) {
  const auto count = static_cast<std::int64_t>(tasks.size());
  const int threads = flops < flops_per_fork
                          ? 1
                          : static_cast<int>(std::min<std::int64_t>(num_threads, std::max<std::int64_t>(count, 1)));
  std::vector<Memory> memory;
  for (int i = 0; i < threads; ++i) memory.emplace_back(floats * 4);
  std::atomic<std::int64_t> next{0};
  parallel_for(threads, threads, [&](std::int64_t worker) {
    for (std::int64_t task; (task = next++) < count;)
      body(tasks[static_cast<std::size_t>(task)], memory[static_cast<std::size_t>(worker)].as<float>());
  });
}

double flops_of(const JaggedProduct& args) {
  return 2.0 * static_cast<double>(args.offsets[args.num_rows]) * static_cast<double>(args.depth) *
         static_cast<double>(args.num_columns);
}

}  // namespace

void jagged_dense_matmul(const JaggedProduct& args, const float* values, const float* dense, const float* bias,
                         float* out) {
  std::vector<Stretch> tasks;
  for (std::int64_t row = 0; row < args.num_rows; ++row)
    for (std::int64_t first = args.offsets[row]; first < args.offsets[row + 1]; first += elements_per_task)
      tasks.push_back({row, first, std::min(args.offsets[row + 1], first + elements_per_task)});
  const ProductSizes sizes = GENREC_DISPATCH(product_sizes(args.depth));
  const std::int64_t floats = std::max<std::int64_t>(1, sizes.chunk * args.depth);
  for_tasks(tasks, flops_of(args), args.num_threads, floats, [&](const Stretch& task, float* panels) {
    GENREC_DISPATCH(dense_part(args, task.row, task.first, task.last, values, dense, bias, panels, out));
  });
}

void jagged_jagged_matmul(const JaggedProduct& args, const float* a, const float* b, float* out) {
  std::vector<Stretch> tasks;
  for (std::int64_t row = 0; row < args.num_rows; ++row) tasks.push_back({row, 0, 0});
  const ProductSizes sizes = GENREC_DISPATCH(product_sizes(product_depth_block));
  const std::int64_t columns = (args.num_columns + sizes.panel_width - 1) / sizes.panel_width * sizes.panel_width;
  for_tasks(tasks, flops_of(args), args.num_threads, columns * product_depth_block,
            [&](const Stretch& task, float* panels) {
              GENREC_DISPATCH(jagged_part_product(args, task.row, a, b, panels, out));
            });
}

}  // namespace genrec
