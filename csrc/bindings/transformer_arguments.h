// What the calls of a transformer share.
#pragma once
#include "bindings/arguments.h"
#include "ops/transformer/transformer.h"

namespace genrec::bindings {

inline TransformerWeights transformer_weights(Arguments& given) {  // behind the rows, whose width it names
  const Tensor block = given.tensor("weights", only<std::uint8_t>, "Z", Layout::whole);
  return {block.data, given.size('Z'), given.number("stack"), given.size('D')};
}
inline TransformerTables transformer_tables(Arguments& given) {
  const float *const rotary = given.maybe<float>("rotary", "P T"), *const distance =
                                                                       given.maybe<float>("distance", "H S");
  return {rotary, given.size('P'), given.size('T'), distance, given.size('S'), given.size('H')};
}
// Kernels write only those that are given as outputs.
inline TransformerCache transformer_cache(Arguments& given, bool written) {
  const std::int64_t* const offsets = given.in<std::int64_t>("offsets", "B+1");
  float* const floats = written ? given.out<float>("cache", "C") : const_cast<float*>(given.in<float>("cache", "C"));
  return {floats, offsets, given.size('C')};
}
inline TransformerCache transformer_cross_cache(Arguments& given) {
  float* const floats = const_cast<float*>(given.maybe<float>("cross", "Q"));
  const std::int64_t* const offsets = given.maybe<std::int64_t>("cross_offsets", "B+1");
  return {floats, offsets, given.size('Q')};
}
inline TransformerFirst transformer_first_table(Arguments& given) {
  const float* const table = given.maybe<float>("first_table", "V F");
  const std::int64_t* const tokens = given.maybe<std::int64_t>("tokens", "R");
  return {table, tokens, given.size('V'), given.size('F')};
}

}  // namespace genrec::bindings
