// Between fingerprint.cpp and fingerprint_watch.cpp: sums over parts of arrays.
#pragma once
#include <cstdint>

#include "ops/fingerprint/fingerprint.h"

namespace genrec {

// Whole blocks of an array, or its end.
struct FingerprintPart {
  const char* data;
  std::int64_t begin, bytes;  // begin: bytes of the array before `data`, a multiple of fingerprint_block
  std::uint64_t sum;          // over its blocks
};

// Sets the sums of parts, on several threads where that is worth it.
void sum_parts(FingerprintPart* const* parts, std::int64_t count, int num_threads);

// Throws ValueError as `fingerprint` does.
void check_arrays(const void* const* data, const std::int64_t* bytes, std::int64_t count);

// The value of a list and one more array; `sum`: over all blocks of it.
inline std::uint64_t fingerprint_chain(std::uint64_t value, std::int64_t bytes, std::uint64_t sum) {
  const std::uint64_t array = fingerprint_mix(static_cast<std::uint64_t>(bytes)) + sum;
  return fingerprint_mix(value ^ array) + fingerprint_golden;
}

}  // namespace genrec
