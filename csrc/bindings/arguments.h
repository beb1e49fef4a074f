// Arguments by name, for the calls that share tens of them: none may be missing, misspelt or left over.
#pragma once
#include <pybind11/stl.h>

#include <stdexcept>
#include <vector>

#include "bindings/bindings.h"
#include "core/check.h"

namespace genrec::bindings {

// An argument is of the wrong type (Python: errors.InvalidTypeError).
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// Every name is to be asked for once; `finish` says whether that was all.
class Arguments {
 public:
  Arguments(const char* op, const pybind11::kwargs& given) : op_(op), given_(given) {}

  template <typename T>
  T value(const char* name) const {
    PyObject* const found = PyDict_GetItemString(given_.ptr(), name);
    check(found != nullptr, op_, ": argument ", name, " must be given, got none of that name");
    asked_.push_back(name);
    try {
      return pybind11::handle(found).cast<T>();
    } catch (const pybind11::cast_error&) {
      throw TypeError(
          message(op_, ": argument ", name, " must be of its kernel's type, got ", Py_TYPE(found)->tp_name));
    }
  }
  template <typename T>
  T* at(const char* name) const {
    return as_pointer<T>(value<std::uintptr_t>(name));
  }
  template <typename T>
  std::vector<T*> all(const char* name) const {
    std::vector<T*> out;
    for (std::uintptr_t address : value<std::vector<std::uintptr_t>>(name)) out.push_back(as_pointer<T>(address));
    return out;
  }
  std::int64_t number(const char* name) const { return value<std::int64_t>(name); }
  std::vector<std::int64_t> numbers(const char* name) const { return value<std::vector<std::int64_t>>(name); }

  void finish() const {
    if (given_.size() == asked_.size()) return;
    for (const auto& [name, unused] : given_) {
      const auto known = name.cast<std::string>();
      bool found = false;
      for (const char* asked : asked_) found = found || known == asked;
      check(found, op_, ": arguments must be those of the kernel, got one named ", known);
    }
    throw ValueError(message(op_, ": arguments must be asked for once each"));
  }

  const char* op() const { return op_; }

 private:
  const char* op_;
  const pybind11::kwargs& given_;
  mutable std::vector<const char*> asked_;
};

}  // namespace genrec::bindings
