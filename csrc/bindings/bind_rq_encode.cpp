#include "bindings/bindings.h"
#include "ops/rq/rq_encode.h"

namespace genrec::bindings {

void register_rq_encode(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Tensor x = given.tensor("x", floats, "N D", Layout::copied);
    const auto books = given.all<float>("codebooks", "k D");
    given.set_size('L', books.count());
    const std::int64_t num_beams = given.number("num_beams");
    const bool rounded = given.flag("bfloat16");
    std::int32_t* const codes = given.out<std::int32_t>("codes", "N L");
    const RqEncodeArgs args{"rq_encode",
                            x.data,
                            static_cast<RqElement>(float_number(x.dtype)),
                            given.size('N'),
                            given.size('D'),
                            static_cast<int>(books.count()),
                            books.data.data(),
                            books.rows.data(),
                            static_cast<int>(num_beams),
                            rounded,
                            given.threads(),
                            codes};
    const auto unlocked = given.release();
    rq_encode(args);
  }>(m, "rq_encode");
}

}  // namespace genrec::bindings
