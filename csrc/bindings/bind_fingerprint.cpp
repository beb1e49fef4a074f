#include "bindings/bindings.h"
#include "ops/fingerprint/fingerprint.h"

namespace genrec::bindings {

// Addresses, not tensors: hundreds are asked for at a time, and Python has looked at each.
void register_fingerprint(pybind11::module_& m) {
  def<[](Arguments& given) {
    std::vector<const void*> data;
    for (const std::int64_t address : given.numbers("pointers")) data.push_back(reinterpret_cast<const void*>(address));
    const std::vector<std::int64_t> sizes = given.numbers("sizes");
    check(data.size() == sizes.size(), "fingerprint: sizes must be one per pointer, got ", sizes.size(), " for ",
          data.size());
    const int threads = given.threads();
    const auto unlocked = given.release();
    return fingerprint(data.data(), sizes.data(), static_cast<std::int64_t>(data.size()), threads);
  }>(m, "fingerprint");
  // The same for arrays whose addresses and sizes (int64, both at these addresses) the caller keeps in two tensors.
  def<[](Arguments& given) {
    const auto* const pointers = given.address<const void* const>("pointers");
    const auto* const sizes = given.address<const std::int64_t>("sizes");
    const std::int64_t count = given.number("count");
    const int threads = given.threads();
    check(count >= 0, "fingerprint_raw: count must be at least 0, got ", count);
    check(count == 0 || (pointers != nullptr && sizes != nullptr),
          "fingerprint_raw: pointers and sizes must have data");
    const auto unlocked = given.release();
    return fingerprint(pointers, sizes, count, threads);
  }>(m, "fingerprint_raw");
}

}  // namespace genrec::bindings
