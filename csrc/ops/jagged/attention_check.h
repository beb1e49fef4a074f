// What attention refuses before anything is read through its arguments.
#pragma once
#include "ops/jagged/jagged_attention.h"

namespace genrec {

// Limits beyond any row mean the same as 2^31 and would overflow where they are added to positions.
AttentionArgs bounded(AttentionArgs args);

// Throws ValueError on shapes, offsets, targets, times and tables that break their rules; returns the longest row of
// keys.
std::int64_t check_attention(const AttentionArgs& args);

}  // namespace genrec
