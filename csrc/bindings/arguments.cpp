#include "bindings/arguments.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

[[noreturn]] void refuse_kind(const char* op, const char* name, PyObject* found) {
  PyErr_Clear();
  throw TypeError(message(op, ": argument ", name, " must be of its kernel's type, got ", Py_TYPE(found)->tp_name));
}

std::int64_t whole(const char* op, const char* name, PyObject* found) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(found));  // torch's symbolic sizes have one
  const std::int64_t value = number ? PyLong_AsLongLong(number.ptr()) : -1;
  if (value == -1 && PyErr_Occurred() != nullptr) refuse_kind(op, name, found);
  return value;
}

}  // namespace

std::int64_t Arguments::place(const char* name) {
  if (next_ < positional_) return next_;
  const std::int64_t count = names_ != nullptr ? PyTuple_GET_SIZE(names_) : 0;
  for (std::int64_t step = 0; step < count; ++step) {  // mostly they come in the order that they are asked for
    const std::int64_t at = (next_ - positional_ + step) % count;
    if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names_, at), name) == 0) return positional_ + at;
  }
  throw ValueError(message(op_, ": argument ", name, " must be given, got none of that name"));
}

PyObject* Arguments::take(const char* name) {
  const std::int64_t at = place(name);
  check(at < 64, op_, ": arguments must be at most 64");
  taken_ |= std::uint64_t{1} << at;
  next_ = at + 1;
  return values_[at];
}

bool Arguments::is_none(const char* name) {
  const std::int64_t at = place(name);
  if (values_[at] == Py_None) take(name);
  return values_[at] == Py_None;
}

void Arguments::finish() const {
  const std::int64_t count = positional_ + (names_ != nullptr ? PyTuple_GET_SIZE(names_) : 0);
  for (std::int64_t at = 0; at < count; ++at) {
    if (taken_ >> at & 1) continue;
    check(at >= positional_, op_, ": arguments must be at most ", at, ", got ", positional_, " without a name");
    throw ValueError(message(op_, ": arguments must be those of the kernel, got one named ",
                             py::handle(PyTuple_GET_ITEM(names_, at - positional_)).cast<std::string>()));
  }
}

// f(letter, its size if it is known, else -1, what is added to it) for each dimension; where the shape ends.
template <class F>
const char* Arguments::each_size(const char* shape, const F& f) const {
  const char* at = shape;
  for (; *at != '\0' && *at != '.'; ++at) {
    if (*at == ' ') continue;
    const char letter = *at;
    const bool more = at[1] == '+';
    if (more) at += 2;
    std::int64_t size = letter >= '0' && letter <= '9' ? letter - '0' : -1;
    if (letter >= 'A' && letter <= 'Z' && sizes_[static_cast<std::size_t>(letter - 'A')] != 0)
      size = this->size(letter) + more;
    f(letter, size, more);
  }
  return at;
}

Tensor Arguments::read(const Label& label, PyObject* object, const Dtypes& dtypes, const char* shape, Layout layout,
                       std::int64_t alignment, int free) {
  const Tensor found = reader_.read(label, object, layout, alignment, free);
  bool fits = dtypes.any_of.empty();
  for (const Dtype& dtype : dtypes.any_of) fits = fits || dtype == found.dtype;
  if (!fits) throw TypeError(message(label.text(), " must be ", dtypes.words, wanted(shape), ", got ", found.text()));
  int d = 0;
  const char* const rest = each_size(shape, [&](char, std::int64_t size, std::int64_t) {
    fits = fits && d < found.dims && (size < 0 || size == found.sizes[d]);
    ++d;
  });
  if (!fits || (*rest == '\0' && d != found.dims))
    throw ValueError(message(label.text(), " must be ", dtypes.words, wanted(shape), ", got ", found.text()));
  d = 0;
  each_size(shape, [&](char letter, std::int64_t, std::int64_t more) {
    if (letter >= 'A' && letter <= 'Z') set_size(letter, found.sizes[d] - more);
    ++d;
  });
  return found;
}

std::string Arguments::wanted(const char* shape) const {
  std::string out;
  const char* const rest = each_size(shape, [&](char letter, std::int64_t size, std::int64_t more) {
    out += out.empty() ? " [" : ", ";
    out += size >= 0 ? std::to_string(size) : more ? message(letter, " + 1") : std::string(1, letter);
  });
  if (*rest != '\0') out += out.empty() ? " [..." : ", ...";
  return (out.empty() ? " [" : out) + "]";
}

std::int64_t Arguments::number(const char* name) { return whole(op_, name, take(name)); }

std::vector<std::int64_t> Arguments::numbers(const char* name) {
  std::vector<std::int64_t> out;
  for (PyObject* found : objects(name)) out.push_back(whole(op_, name, found));
  return out;
}

double Arguments::real(const char* name) {
  PyObject* const found = take(name);
  const double value = PyFloat_AsDouble(found);
  if (value == -1.0 && PyErr_Occurred() != nullptr) refuse_kind(op_, name, found);
  return value;
}

bool Arguments::flag(const char* name) {
  PyObject* const found = take(name);
  if (!PyBool_Check(found)) refuse_kind(op_, name, found);
  return found == Py_True;
}

std::string Arguments::text(const char* name) {
  PyObject* const found = take(name);
  if (!PyUnicode_Check(found)) refuse_kind(op_, name, found);
  return py::handle(found).cast<std::string>();
}

std::vector<PyObject*> Arguments::objects(const char* name) {
  const auto found = items(name);
  return {found.begin(), found.end()};
}

std::span<PyObject* const> Arguments::items(const char* name) {
  PyObject* const found = take(name);
  if (!PyList_Check(found) && !PyTuple_Check(found)) refuse_kind(op_, name, found);
  PyObject* const* const items = PySequence_Fast_ITEMS(found);
  return {items, static_cast<std::size_t>(PySequence_Fast_GET_SIZE(found))};
}

void* Arguments::pointer(const char* name, std::size_t alignment) {
  const auto address = static_cast<std::uintptr_t>(number(name));
  check(address % alignment == 0, op_, ": ", name, " must be aligned to ", alignment, " bytes, got address ", address);
  return reinterpret_cast<void*>(address);
}

}  // namespace genrec::bindings
