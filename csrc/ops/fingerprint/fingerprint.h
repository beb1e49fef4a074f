// A number of 64 bits that tells the contents of a list of arrays from others: has anything been written since?
#pragma once
#include <cstdint>

namespace genrec {

// Defined on bytes; all numbers are unsigned, sums and products modulo 2^64 but where 2^32 is said:
//   mix(z)     = the finalizer of splitmix64: z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
//                z = (z ^ z >> 27) * 0x94D049BB133111EB; z ^ z >> 31
//   k[i]       = mix((i + 1) * golden) >> 32 | 1, i in [0, 256), golden = 0x9E3779B97F4A7C15: splitmix64 from 0
//   block b    = bytes [1024 b, 1024 (b + 1)) of the array, the last one filled up with zeros, as 256 words w of
//                32 bits, little-endian
//   h(b)       = sum over j < 128 of (w[2j] + k[2j] mod 2^32) * (w[2j + 1] + k[2j + 1] mod 2^32)
//   array      = mix(bytes) + sum over its blocks of mix(h(b) + b * golden)
//   the list   = value = 0; for each array, in order: value = mix(value ^ array) + golden
// h is NH, the inner hash of UMAC (RFC 4418): two blocks that differ have equal sums with a probability of about 2^-32,
// over the keys. The sums have no order, so threads do not change the value. It is no defence against somebody who
// wants two contents to be equal: the keys are known.
// Throws ValueError where an array has bytes but no address, or a negative number of bytes.
// Cost: one pass; bound by memory beyond the second cache.
std::uint64_t fingerprint(const void* const* data, const std::int64_t* bytes, std::int64_t count, int num_threads);

constexpr std::int64_t fingerprint_block = 1024;  // bytes
constexpr std::uint64_t fingerprint_golden = 0x9E3779B97F4A7C15u;

constexpr std::uint64_t fingerprint_mix(std::uint64_t z) {
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

// ---- between fingerprint.cpp and fingerprint_cpu.cpp: fingerprint_sum(data, bytes, first) is the sum over the blocks
// of `bytes` bytes that begin at `data`, the first of them being block `first` of its array.

}  // namespace genrec
