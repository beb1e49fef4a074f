#include "bindings/bindings.h"
#include "ops/rq/kmeans_step.h"

namespace genrec::bindings {

void register_kmeans_step(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Tensor x = given.tensor("x", floats, "N D", Layout::copied);
    const float* const centroids = given.in<float>("centroids", "K D");
    const bool rounded = given.flag("bfloat16");
    std::int32_t* const labels = given.out<std::int32_t>("labels", "N");
    double* const sums = given.out<double>("sums", "K D");
    std::int64_t* const counts = given.out<std::int64_t>("counts", "K");
    double* const inertia = given.out<double>("inertia", "");
    const KMeansStepArgs args{x.data,          static_cast<RqElement>(float_number(x.dtype)),
                              given.size('N'), given.size('D'),
                              centroids,       given.size('K'),
                              rounded,         given.threads(),
                              labels,          sums,
                              counts,          inertia};
    const auto unlocked = given.release();
    kmeans_step(args);
  }>(m, "kmeans_step");
}

}  // namespace genrec::bindings
