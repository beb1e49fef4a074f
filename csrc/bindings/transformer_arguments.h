// How the calls of a transformer are given: some twenty numbers each, all by name.
#pragma once
#include "bindings/arguments.h"
#include "ops/transformer.h"

namespace genrec::bindings {

struct TransformerArguments : Arguments {
  using Arguments::Arguments;

  int threads() const { return value<int>("num_threads"); }
  TransformerWeights weights() const {
    return {at<const void>("weights"), number("weights_bytes"), number("stack"), number("rows_width")};
  }
  TransformerFirst first() const {
    return {at<const float>("first_table"), at<const std::int64_t>("tokens"), number("num_tokens"),
            number("first_width")};
  }
  TransformerTables tables() const {
    return {at<const float>("rotary"),   number("num_positions"), number("rotary_width"),
            at<const float>("distance"), number("distance_size"), number("distance_heads")};
  }
  TransformerCache cache() const {
    return {at<float>("cache"), at<const std::int64_t>("offsets"), number("cache_floats")};
  }
  TransformerCache cross() const {
    return {at<float>("cross"), at<const std::int64_t>("cross_offsets"), number("cross_floats")};
  }
};

}  // namespace genrec::bindings
