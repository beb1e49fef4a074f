#include "bindings/bindings.h"
#include "ops/rq/rq_decode.h"

namespace genrec::bindings {

void register_rq_decode(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Tensor codes = given.tensor("codes", integers, "N L", Layout::copied);
    const auto books = given.all<float>("codebooks", "k D");
    check(books.count() == given.size('L'), "rq_decode: codebooks must be one per level, got ", books.count(), " for ",
          codes.text());
    const RqDecodeArgs args{codes.data,        static_cast<int>(codes.element_size()), given.size('N'),
                            given.size('D'),   static_cast<int>(books.count()),        books.data.data(),
                            books.rows.data(), given.out<float>("out", "N D")};
    const int threads = given.threads();
    const auto unlocked = given.release();
    rq_decode(args, threads);
  }>(m, "rq_decode");
}

}  // namespace genrec::bindings
