#include <cstdint>

#include "core/vec.h"
#include "ops/fingerprint/fingerprint.h"

namespace genrec::GENREC_ISA {
namespace {

constexpr int words = fingerprint_block / 4;

struct alignas(64) Keys {
  std::uint32_t k[words] = {};
  constexpr Keys() {
    for (int i = 0; i < words; ++i)
      k[i] = static_cast<std::uint32_t>(
          fingerprint_mix((static_cast<std::uint64_t>(i) + 1) * fingerprint_golden) >> 32 | 1);
  }
};
constexpr Keys keys;

#if GENREC_VEC == 2

inline std::uint64_t block_sum(const void* block) {
  // Two sums: an addition after a multiplication would wait for the one before it.
  __m512i even = _mm512_setzero_si512(), odd = even;
  const char* at = static_cast<const char*>(block);
  const auto product = [&](int i) {
    const __m512i w = _mm512_add_epi32(_mm512_loadu_si512(at + 64 * i), _mm512_load_si512(keys.k + 16 * i));
    return _mm512_mul_epu32(w, _mm512_srli_epi64(w, 32));
  };
#pragma GCC unroll 8
  for (int i = 0; i < words / 16; i += 2) {
    even = _mm512_add_epi64(even, product(i));
    odd = _mm512_add_epi64(odd, product(i + 1));
  }
  const __m512i all = _mm512_add_epi64(even, odd);
  const __m256i four = _mm256_add_epi64(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(two)) + static_cast<std::uint64_t>(_mm_extract_epi64(two, 1));
}

#elif GENREC_VEC == 1

inline std::uint64_t block_sum(const void* block) {
  __m256i even = _mm256_setzero_si256(), odd = even;
  const auto* at = static_cast<const __m256i*>(block);
  const auto* key = reinterpret_cast<const __m256i*>(keys.k);
  const auto product = [&](int i) {
    const __m256i w = _mm256_add_epi32(_mm256_loadu_si256(at + i), _mm256_load_si256(key + i));
    return _mm256_mul_epu32(w, _mm256_srli_epi64(w, 32));
  };
#pragma GCC unroll 8
  for (int i = 0; i < words / 8; i += 2) {
    even = _mm256_add_epi64(even, product(i));
    odd = _mm256_add_epi64(odd, product(i + 1));
  }
  const __m256i four = _mm256_add_epi64(even, odd);
  const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(two)) + static_cast<std::uint64_t>(_mm_extract_epi64(two, 1));
}

#elif defined(__x86_64__) || defined(_M_X64)

inline std::uint64_t block_sum(const void* block) {
  __m128i even = _mm_setzero_si128(), odd = even;
  const auto* at = static_cast<const __m128i*>(block);
  const auto* key = reinterpret_cast<const __m128i*>(keys.k);
  const auto product = [&](int i) {
    const __m128i w = _mm_add_epi32(_mm_loadu_si128(at + i), _mm_load_si128(key + i));
    return _mm_mul_epu32(w, _mm_srli_epi64(w, 32));
  };
#pragma GCC unroll 8
  for (int i = 0; i < words / 4; i += 2) {
    even = _mm_add_epi64(even, product(i));
    odd = _mm_add_epi64(odd, product(i + 1));
  }
  const __m128i two = _mm_add_epi64(even, odd);
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(two)) +
         static_cast<std::uint64_t>(_mm_cvtsi128_si64(_mm_unpackhi_epi64(two, two)));
}

#else

// Byte by byte, so that neither alignment nor the order of bytes matters; compilers make one load of it.
inline std::uint32_t word(const unsigned char* at) {
  return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8 |
         static_cast<std::uint32_t>(at[2]) << 16 | static_cast<std::uint32_t>(at[3]) << 24;
}

inline std::uint64_t block_sum(const void* block) {
  const auto* at = static_cast<const unsigned char*>(block);
  std::uint64_t sum = 0;
  for (int j = 0; j < words; j += 2)
    sum += static_cast<std::uint64_t>(word(at + 4 * j) + keys.k[j]) * (word(at + 4 * j + 4) + keys.k[j + 1]);
  return sum;
}

#endif

}  // namespace

std::uint64_t fingerprint_sum(const void* data, std::int64_t bytes, std::uint64_t first) {
  const auto* at = static_cast<const unsigned char*>(data);
  std::uint64_t sum = 0, offset = first * fingerprint_golden;
  for (; bytes >= fingerprint_block; bytes -= fingerprint_block, at += fingerprint_block) {
    prefetch(at + 4 * fingerprint_block);
    sum += fingerprint_mix(block_sum(at) + offset);
    offset += fingerprint_golden;
  }
  if (bytes == 0) return sum;
  alignas(64) unsigned char last[fingerprint_block] = {};
  for (std::int64_t i = 0; i < bytes; ++i) last[i] = at[i];
  return sum + fingerprint_mix(block_sum(last) + offset);
}

}  // namespace genrec::GENREC_ISA
