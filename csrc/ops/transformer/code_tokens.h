// Where the codes of a trie's level stand in a vocabulary.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/check.h"
#include "core/memory.h"

namespace genrec {

// The tokens of a level's codes, and the part of the vocabulary that they lie in.
struct CodeTokens {
  const std::int64_t* tokens;
  std::int64_t count, first, last;
  bool in_order;  // token = first + code

  CodeTokens(const char* op, const std::int64_t* given, std::int64_t size, std::int64_t head_size)
      : tokens(given), count(size), first(0), last(0), in_order(true) {
    check(given && size >= 1, op, ": code_tokens must hold a token for every code, got none");
    for (std::int64_t code = 0; code < size; ++code)
      check(given[code] >= 0 && given[code] < head_size, op, ": code_tokens must be in [0, ", head_size, "), got ",
            given[code], " for code ", code);
    first = *std::min_element(given, given + size), last = *std::max_element(given, given + size) + 1;
    for (std::int64_t code = 0; code < size; ++code) in_order = in_order && given[code] == first + code;
  }

  // Logits [rows, last - first] of the part -> those of the codes, [rows, count].
  Memory picked(Memory logits, std::int64_t rows) const {
    if (in_order) return logits;
    Memory out(rows * count * 4);
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* from = logits.as<float>() + row * (last - first);
      float* to = out.as<float>() + row * count;
      for (std::int64_t code = 0; code < count; ++code) to[code] = from[tokens[code] - first];
    }
    return out;
  }
};

}  // namespace genrec
