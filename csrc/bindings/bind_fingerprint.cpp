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

// None where one of the tensors has no bytes that could be read as they lie: Python says which, or copies.
std::optional<Arrays> arrays(Arguments& given) {
  const auto all = given.all_bytes("tensors");
  if (!all) return std::nullopt;
  Arrays out;
  for (const Bytes& bytes : *all) {
    out.data.push_back(bytes.data);
    out.sizes.push_back(bytes.size);
  }
  return out;
}

void fetch_contents_ahead(PyObject* container) {
  if (PyDict_Check(container) == 0) return;
  const auto* const dict = reinterpret_cast<const PyDictObject*>(container);
  fetch_ahead(dict->ma_keys);
  fetch_ahead(dict->ma_values);
}

// The dictionary of a class; the class owns it.
PyObject* own_dict(PyObject* kind) {
#if PY_VERSION_HEX >= 0x030C0000
  PyObject* const dict = PyType_GetDict(reinterpret_cast<PyTypeObject*>(kind));
  Py_XDECREF(dict);
  return dict;
#else
  return reinterpret_cast<PyTypeObject*>(kind)->tp_dict;
#endif
}

// Whether a function still runs this code with these defaults, given by position and by name, and this closure.
bool same_code(PyObject* function, PyObject* const* four) {
  const auto known = [](PyObject* part, PyObject* value) { return part == nullptr ? value == Py_None : part == value; };
  return known(PyFunction_GET_CODE(function), four[0]) && known(PyFunction_GET_DEFAULTS(function), four[1]) &&
         known(PyFunction_GET_KW_DEFAULTS(function), four[2]) && known(PyFunction_GET_CLOSURE(function), four[3]);
}

bool same_values(std::span<PyObject* const> containers, const std::int64_t* sizes, std::span<PyObject* const> values) {
  std::size_t at = 0;
  for (std::size_t c = 0; c < containers.size(); ++c) {
    // Thousands are compared, and most lie in no cache.
    if (c + 16 < containers.size()) fetch_ahead(containers[c + 16]);
    if (c + 8 < containers.size()) fetch_contents_ahead(containers[c + 8]);
    PyObject* container = containers[c];
    if (values.size() - at < static_cast<std::size_t>(sizes[c])) return false;
    if (PyFunction_Check(container) != 0) {
      if (sizes[c] != 4 || !same_code(container, &values[at])) return false;
      at += 4;
      continue;
    }
    if (PyType_Check(container) != 0) container = own_dict(container);
    const bool is_list = PyList_Check(container) != 0;
    if (!is_list && PyDict_Check(container) == 0)
      throw TypeError("same_values: containers must be dictionaries, classes, lists and functions");
    if ((is_list ? PyList_GET_SIZE(container) : PyDict_Size(container)) != sizes[c]) return false;
    PyObject* value = nullptr;
    if (is_list) {
      for (Py_ssize_t i = 0; i < sizes[c]; ++i)
        if (PyList_GET_ITEM(container, i) != values[at++]) return false;
    } else {
      for (Py_ssize_t next = 0; PyDict_Next(container, &next, nullptr, &value) != 0;)
        if (value != values[at++]) return false;
    }
  }
  return at == values.size();
}

}  // namespace

void register_fingerprint(pybind11::module_& m) {
  def<[](Arguments& given) -> std::optional<std::uint64_t> {
    const auto all = arrays(given);
    const int threads = given.threads();
    const auto unlocked = given.release();
    if (!all) return std::nullopt;
    return fingerprint(all->data.data(), all->sizes.data(), all->count(), threads);
  }>(m, "fingerprint");
  def<[](Arguments&) { return fingerprint_watches(); }>(m, "fingerprint_watches");
  def<[](Arguments&) { return fingerprint_open(); }>(m, "fingerprint_open");
  def<[](Arguments& given) { fingerprint_close(given.number("watch")); }>(m, "fingerprint_close");
  def<[](Arguments& given) -> std::optional<std::uint64_t> {
    const std::int64_t watch = given.number("watch");
    const auto all = arrays(given);
    const int threads = given.threads();
    const auto unlocked = given.release();
    if (!all) return std::nullopt;
    return fingerprint_watched(watch, all->data.data(), all->sizes.data(), all->count(), threads);
  }>(m, "fingerprint_watched");
  def<[](Arguments& given) {
    const auto containers = given.items("containers"), values = given.items("values");
    given.set_size('C', static_cast<std::int64_t>(containers.size()));
    const auto* const sizes = given.in<std::int64_t>("sizes", "C");
    given.finish();
    return same_values(containers, sizes, values);
  }>(m, "same_values");
}

}  // namespace genrec::bindings
