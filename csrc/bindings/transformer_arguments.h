// How the calls of a transformer are given.
#pragma once
#include <pybind11/stl.h>

#include <vector>

#include "bindings/bindings.h"
#include "ops/transformer.h"

namespace genrec::bindings {

// The calls share some twenty numbers: all take them by name.
struct Given {
  const pybind11::kwargs& values;

  template <typename T>
  T* at(const char* name) const {
    return as_pointer<T>(values[name].cast<std::uintptr_t>());
  }
  std::int64_t number(const char* name) const { return values[name].cast<std::int64_t>(); }
  template <typename T>
  std::vector<T*> all(const char* name) const {
    std::vector<T*> out;
    for (std::uintptr_t address : values[name].cast<std::vector<std::uintptr_t>>())
      out.push_back(as_pointer<T>(address));
    return out;
  }
  std::vector<std::int64_t> numbers(const char* name) const { return values[name].cast<std::vector<std::int64_t>>(); }
  int threads() const { return values["num_threads"].cast<int>(); }
  TransformerWeights weights() const {
    return {at<const void>("weights"), number("weights_bytes"), number("stack"), number("rows_width")};
  }
  TransformerFirst first() const {
    return {at<const float>("first_table"), at<const std::int64_t>("tokens"), number("num_tokens")};
  }
  TransformerTables tables() const {
    return {at<const float>("rotary"), number("num_positions"), at<const float>("distance"), number("distance_size")};
  }
  TransformerCache cache() const {
    return {at<float>("cache"), at<const std::int64_t>("offsets"), number("cache_floats")};
  }
  TransformerCache cross() const {
    return {at<float>("cross"), at<const std::int64_t>("cross_offsets"), number("cross_floats")};
  }
};

}  // namespace genrec::bindings
