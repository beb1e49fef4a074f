// From the flat block of weights to the stack it describes: every offset checked before it is used as an address.
#pragma once
#include <cstdint>
#include <vector>

#include "ops/transformer/transformer.h"

namespace genrec {

struct ReadStack {
  std::vector<TransformerLayer> layers;
  TransformerStack stack;
};

// Throws ValueError where the block is none, is cut short, or was packed for panels of another width, and
// UnsupportedError where it holds bfloat16 that this instruction set does not multiply.
ReadStack read_stack(const char* op, const TransformerWeights& weights, const TransformerSizes& sizes);

}  // namespace genrec
