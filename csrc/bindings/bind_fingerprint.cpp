#include "bindings/bindings.h"
#include "ops/fingerprint/fingerprint.h"
#include "ops/fingerprint/fingerprint_watch.h"

namespace genrec::bindings {
namespace {

struct Arrays {
  std::vector<const void*> data;
  std::vector<std::int64_t> sizes;
  std::int64_t count() const { return static_cast<std::int64_t>(data.size()); }
};

Arrays arrays(Arguments& given) {
  Arrays out;
  for (const std::int64_t address : given.numbers("pointers"))
    out.data.push_back(reinterpret_cast<const void*>(address));
  out.sizes = given.numbers("sizes");
  check(out.data.size() == out.sizes.size(), "fingerprint: sizes must be one per pointer, got ", out.sizes.size(),
        " for ", out.count());
  return out;
}

}  // namespace

// Addresses, not tensors: hundreds are asked for at a time, and Python has looked at each.
void register_fingerprint(pybind11::module_& m) {
  def<[](Arguments& given) {
    const Arrays all = arrays(given);
    const int threads = given.threads();
    const auto unlocked = given.release();
    return fingerprint(all.data.data(), all.sizes.data(), all.count(), threads);
  }>(m, "fingerprint");
  def<[](Arguments&) { return fingerprint_watches(); }>(m, "fingerprint_watches");
  def<[](Arguments&) { return fingerprint_open(); }>(m, "fingerprint_open");
  def<[](Arguments& given) { fingerprint_close(given.number("watch")); }>(m, "fingerprint_close");
  def<[](Arguments& given) {
    const std::int64_t watch = given.number("watch");
    const Arrays all = arrays(given);
    const int threads = given.threads();
    const auto unlocked = given.release();
    return fingerprint_watched(watch, all.data.data(), all.sizes.data(), all.count(), threads);
  }>(m, "fingerprint_watched");
  def<[](Arguments& given) {
    const auto dicts = given.objects("dicts"), values = given.objects("values");
    const std::vector<std::int64_t> sizes = given.numbers("sizes");
    check(dicts.size() == sizes.size(), "same_values: sizes must be one per dictionary, got ", sizes.size());
    std::size_t at = 0;
    for (std::size_t d = 0; d < dicts.size(); ++d) {
      if (PyDict_Check(dicts[d]) == 0) throw TypeError("same_values: dicts must be dictionaries");
      if (PyDict_Size(dicts[d]) != sizes[d]) return false;
      PyObject* value = nullptr;
      for (Py_ssize_t next = 0; PyDict_Next(dicts[d], &next, nullptr, &value); ++at)
        if (at >= values.size() || value != values[at]) return false;
    }
    return at == values.size();
  }>(m, "same_values");
}

}  // namespace genrec::bindings
