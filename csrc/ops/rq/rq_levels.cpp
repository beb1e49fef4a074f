#include "ops/rq/rq_levels.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/isa.h"
#include "core/parallel.h"

GENREC_PER_ISA(RqSizes rq_sizes(std::int64_t depth);
               std::int64_t rq_prepare(RqLevel& level, std::int64_t depth, std::int64_t first, std::int64_t last,
                                       float* work);)

namespace genrec {

namespace {

// The lowest of equal codes wins, so the others need not be looked at. Codes of a collapsed codebook are often equal,
// and without this every row near them would be scored again for each.
void strike_duplicates(const RqLevel& level, std::int64_t depth) {
  const auto code = [&](std::int64_t k) { return level.codebook + k * depth; };
  std::vector<std::int64_t> order(static_cast<std::size_t>(level.num_codes));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    if (level.half_norms[a] != level.half_norms[b]) return level.half_norms[a] < level.half_norms[b];
    const auto [x, y] = std::mismatch(code(a), code(a) + depth, code(b));
    return x == code(a) + depth ? a < b : *x < *y;
  });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (std::equal(code(order[i]), code(order[i]) + depth, code(order[i - 1])))
      level.starts[order[i]] = -std::numeric_limits<float>::infinity();
}

// What a level's codes have in common: their mean (of a sample; any point is right), if that is not small against their
// distances from it. Writes it to `out` and says so.
bool find_centre(const float* codebook, std::int64_t num_codes, std::int64_t depth, float* out) {
  constexpr std::int64_t sample = 512;
  const std::int64_t step = (num_codes + sample - 1) / sample;
  std::vector<double> sums(static_cast<std::size_t>(depth));
  double squares = 0, count = 0;
  for (std::int64_t k = 0; k < num_codes; k += step, ++count)
    for (std::int64_t d = 0; d < depth; ++d) {
      const double c = codebook[k * depth + d];
      sums[static_cast<std::size_t>(d)] += c;
      squares += c * c;
    }
  double common = 0;
  for (std::int64_t d = 0; d < depth; ++d) {
    const double mean = sums[static_cast<std::size_t>(d)] / count;
    out[d] = static_cast<float>(mean);
    common += mean * mean;
  }
  return common > 0.05 * (squares / count - common) && common < 1e30;  // no NaN: codes are checked later
}

}  // namespace

bool RqLevels::centred() const {
  return std::any_of(levels_.begin(), levels_.end(), [](const RqLevel& level) { return level.centre != nullptr; });
}

bool RqLevels::bfloat16() const { return levels_.front().panels16 != nullptr; }

RqWorkspace::RqWorkspace(const RqLevels& levels, std::int64_t depth) {
  const RqSizes sizes = rq_sizes(depth);
  const std::int64_t chunk = std::min(sizes.chunk, levels.most_columns());
  residual_ = Memory(sizes.block_rows * depth * 4);
  centred_ = Memory(levels.centred() ? sizes.block_rows * depth * 4 : 0);
  residual16_ = Memory(levels.bfloat16() ? sizes.block_rows * (depth + 1) * 2 : 0);
  scores_ = Memory(sizes.tile_rows * chunk * 4);
  too_coarse_ = Memory(levels.num_levels());
  std::fill_n(too_coarse_.as<std::uint8_t>(), levels.num_levels(), std::uint8_t{0});
  scratch_ = {
      residual_.as<float>(),         centred_.as<float>(), residual16_.as<std::uint16_t>(), scores_.as<float>(), chunk,
      too_coarse_.as<std::uint8_t>()};
}

RqSizes rq_sizes(std::int64_t depth) { return GENREC_DISPATCH(rq_sizes(depth)); }

RqLevels::RqLevels(const float* const* codebooks, const std::int64_t* num_codes, int num_levels, std::int64_t depth,
                   const Options& options) {
  constexpr std::int64_t panels_per_task = 8;
  const RqSizes sizes = genrec::rq_sizes(depth);
  struct Task {
    int level;
    std::int64_t first, last;
    RqLevel part;
  };
  const auto columns_of = [&](int l) {
    return (num_codes[l] + sizes.panel_width - 1) / sizes.panel_width * sizes.panel_width;
  };
  const bool coarse = options.bfloat16 && sizes.bfloat16;
  // One block for all: per column its starts, half norm and packed code, each part rounded up to a cache line.
  const auto line = [](std::int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const std::int64_t even = depth + depth % 2;
  std::int64_t bytes = 0;
  for (int l = 0; l < num_levels; ++l)
    bytes += line(columns_of(l) * 4) + line(columns_of(l) * 8) + line(depth * 4) +
             (options.packed ? line(columns_of(l) * depth * 4) : 0) + (coarse ? line(columns_of(l) * even * 2) : 0);
  memory_ = Memory(bytes);
  std::byte* next = memory_.as<std::byte>();
  const auto take = [&](std::int64_t size) { return std::exchange(next, next + line(size)); };
  std::vector<Task> tasks;
  for (int l = 0; l < num_levels; ++l) {
    const std::int64_t columns = columns_of(l), panels = columns / sizes.panel_width;
    RqLevel level{};
    level.codebook = codebooks[l];
    level.num_codes = num_codes[l];
    level.starts = reinterpret_cast<float*>(take(columns * 4));
    level.half_norms = reinterpret_cast<double*>(take(columns * 8));
    float* centre = reinterpret_cast<float*>(take(depth * 4));
    if (options.centred && options.packed && find_centre(level.codebook, level.num_codes, depth, centre))
      level.centre = centre;
    if (options.packed) level.panels = reinterpret_cast<float*>(take(columns * depth * 4));
    if (coarse) level.panels16 = reinterpret_cast<std::uint16_t*>(take(columns * even * 2));
    levels_.push_back(level);
    most_columns_ = std::max(most_columns_, columns);
    for (std::int64_t p = 0; p < panels; p += panels_per_task)
      tasks.push_back({l, p, std::min(p + panels_per_task, panels), level});
  }
  parallel_for(static_cast<std::int64_t>(tasks.size()), options.num_threads, [&](std::int64_t t) {
    Task& task = tasks[static_cast<std::size_t>(t)];
    const Memory work(task.part.centre ? sizes.panel_width * depth * 4 : 0);
    const std::int64_t wrong = GENREC_DISPATCH(rq_prepare(task.part, depth, task.first, task.last, work.as<float>()));
    check(wrong < 0, options.op, ": codebooks[", task.level, "] must be finite, got NaN or infinity in row ", wrong);
  });
  if (options.first_of_equals)
    for (const RqLevel& level : levels_) strike_duplicates(level, depth);
  for (const Task& task : tasks) {
    RqLevel& level = levels_[static_cast<std::size_t>(task.level)];
    level.norm = std::max(level.norm, task.part.norm);
    level.spread = std::max(level.spread, task.part.spread);
    level.spread16 = std::max(level.spread16, task.part.spread16);
    level.rounding16 = std::max(level.rounding16, task.part.rounding16);
  }
}

}  // namespace genrec
