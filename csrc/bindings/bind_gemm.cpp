#include "bindings/bindings.h"
#include "ops/dense/gemm.h"

namespace genrec::bindings {

void register_gemm(pybind11::module_& m) {
  def<[](Arguments& given) {
    const std::int64_t columns = given.number("num_columns"), depth = given.number("depth");
    const auto element_size = static_cast<int>(given.number("element_size"));
    given.finish();
    return gemm_pack_size(columns, depth, element_size);
  }>(m, "gemm_pack_size");
  def<[](Arguments& given) {
    const float* const b = given.in<float>("b", "N D");
    const std::int64_t columns = given.size('N'), depth = given.size('D');
    const auto element_size = static_cast<int>(given.number("element_size"));
    given.set_size('P', gemm_pack_size(columns, depth, element_size));
    std::uint8_t* const packed = given.out<std::uint8_t>("packed", "P");
    const int threads = given.threads();
    const auto unlocked = given.release();
    gemm_pack(b, columns, depth, element_size, threads, packed);
  }>(m, "gemm_pack");
  def<[](Arguments& given) {
    const auto element_size = static_cast<int>(given.number("element_size"));
    const std::int64_t depth = given.number("depth");
    given.set_size('D', element_size == 2 ? depth + depth % 2 : depth);
    const Tensor a = element_size == 2 ? given.tensor("a", rounded_floats, "M D", Layout::copied)
                                       : given.tensor("a", only<float>, "M D", Layout::copied);
    const Tensor packed = given.tensor("packed", only<std::uint8_t>, "P", Layout::copied, 8);  // its header: int64
    const float* const start = given.maybe<float>("start", "N");
    float* const out = given.out<float>("out", "M N");
    const GemmArgs args{a.data,          given.size('M'), depth, packed.data,     given.size('P'),
                        given.size('N'), element_size,    start, given.threads(), out};
    const auto unlocked = given.release();
    gemm(args);
  }>(m, "gemm");
}

}  // namespace genrec::bindings
