// Errors that cross the border to Python. Thrown by ops, translated once, in bindings/core.cpp.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace genrec {

// A value breaks a rule of the op's contract (Python: errors.InvalidValueError).
struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// The machine or the build lacks what was asked for (Python: errors.UnsupportedError).
struct UnsupportedError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Message parts are only formatted when the rule is broken.
template <typename... Parts>
inline void check(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]]
    throw ValueError(message(parts...));
}

}  // namespace genrec
