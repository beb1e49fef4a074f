#include "ops/trie/trie_build.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/check.h"

namespace genrec {
namespace {

// 11 bits: 20M items of 44 bits need 4 passes, and 2,048 write positions stay in the second-level cache.
constexpr int max_digit_bits = 11;
constexpr std::int64_t block = 2048;  // items read level by level: their codes stay in the first-level cache

template <typename T>
T load(const char* address) {
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

// Negative codes become huge, so that one comparison finds both kinds of bad code.
template <typename T>
std::uint64_t code_at(const CodeArray& codes, std::int64_t item, int level) {
  const char* address = static_cast<const char*>(codes.data) + item * codes.item_stride + level * codes.level_stride;
  if constexpr (std::is_signed_v<T>) return static_cast<std::uint64_t>(static_cast<std::int64_t>(load<T>(address)));
  return load<T>(address);
}

template <typename Body>
auto with_type(const CodeArray& codes, Body&& body) {
  switch (codes.item_size) {
    case 1:
      return codes.is_signed ? body(std::int8_t{}) : body(std::uint8_t{});
    case 2:
      return codes.is_signed ? body(std::int16_t{}) : body(std::uint16_t{});
    case 4:
      return codes.is_signed ? body(std::int32_t{}) : body(std::uint32_t{});
    case 8:
      return codes.is_signed ? body(std::int64_t{}) : body(std::uint64_t{});
    default:
      throw ValueError(message("build_trie: item_size must be 1, 2, 4 or 8, got ", codes.item_size));
  }
}

template <typename T>
[[noreturn]] void report_bad_code(const CodeArray& codes, std::int64_t first, const std::int64_t* limits) {
  for (std::int64_t item = first; item < codes.num_items; ++item) {
    for (int level = 0; level < codes.num_levels; ++level) {
      const std::uint64_t code = code_at<T>(codes, item, level);
      if (code < static_cast<std::uint64_t>(limits[level])) continue;
      const bool negative = std::is_signed_v<T> && code > std::numeric_limits<std::uint64_t>::max() / 2;
      const std::string value = negative ? message(static_cast<std::int64_t>(code)) : message(code);
      throw ValueError(message("build_trie: item_codes must be in [0, ", limits[level], ") at level ", level, ", got ",
                               value, " for item ", item));
    }
  }
  throw ValueError("build_trie: item_codes must not change while they are read");
}

struct Digit {
  int word, shift, bits;
};

// Splits the used bits of each word into digits of nearly equal width, least significant first.
std::vector<Digit> digits_of(const KeyLayout& layout) {
  std::vector<Digit> digits;
  for (int word = 0; word < layout.num_words; ++word) {
    int used = 0;
    for (int l = 0; l < layout.num_levels; ++l)
      if (layout.word[l] == word) used += layout.bits[l];
    const int passes = (used + max_digit_bits - 1) / max_digit_bits;
    for (int p = 0, shift = 0; p < passes; ++p) {
      const int bits = (used - shift + passes - p - 1) / (passes - p);
      digits.push_back({word, shift, bits});
      shift += bits;
    }
  }
  return digits;
}

inline std::uint32_t digit_value(std::uint64_t word, const Digit& digit) {
  return static_cast<std::uint32_t>(word >> digit.shift) & ((1u << digit.bits) - 1);
}

template <int W>
void scatter(const std::uint64_t* keys, const std::int32_t* items, std::int64_t count, const Digit& digit,
             std::uint32_t* next, std::uint64_t* keys_out, std::int32_t* items_out) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t to = next[digit_value(keys[i * W + digit.word], digit)]++;
    for (int w = 0; w < W; ++w) keys_out[static_cast<std::int64_t>(to) * W + w] = keys[i * W + w];
    items_out[to] = items ? items[i] : static_cast<std::int32_t>(i);  // the first pass reads items in order
  }
}

// Calls edge(level, index, code) for every edge and offset(level, node, value) for every offset, both in ascending
// order per level; level num_levels stands for the rows. Returns the number of edges of each level in `counts`.
template <int W, typename Edge, typename Offset>
void walk(const std::uint64_t* keys, std::int64_t num_items, const KeyLayout& layout, std::int64_t* counts, Edge&& edge,
          Offset&& offset) {
  const int num_levels = layout.num_levels;
  int level_of_bit[64 * W] = {};
  for (int l = 0; l < num_levels; ++l)
    for (int b = 0; b < layout.bits[l]; ++b) level_of_bit[64 * layout.word[l] + layout.shift[l] + b] = l;
  std::fill(counts, counts + num_levels, 0);
  offset(0, 0, 0);
  for (std::int64_t i = 0; i < num_items; ++i) {
    int first_new = 0;
    if (i > 0) {
      first_new = num_levels;
      for (int w = W - 1; w >= 0; --w) {
        const std::uint64_t changed = keys[i * W + w] ^ keys[(i - 1) * W + w];
        if (changed == 0) continue;
        first_new = level_of_bit[64 * w + 63 - std::countl_zero(changed)];
        break;
      }
    }
    for (int l = first_new; l < num_levels; ++l) {
      const std::int64_t index = counts[l]++;
      const std::uint64_t word = keys[i * W + layout.word[l]];
      edge(l, index, static_cast<std::uint32_t>(word >> layout.shift[l]) & ((1u << layout.bits[l]) - 1));
      offset(l + 1, index, l + 1 < num_levels ? counts[l + 1] : i);
    }
  }
  offset(0, 1, counts[0]);
  for (int l = 0; l < num_levels; ++l) offset(l + 1, counts[l], l + 1 < num_levels ? counts[l + 1] : num_items);
}

template <typename Edge, typename Offset>
void walk(const std::uint64_t* keys, std::int64_t num_items, const KeyLayout& layout, std::int64_t* counts, Edge&& edge,
          Offset&& offset) {
  if (layout.num_words == 1)
    walk<1>(keys, num_items, layout, counts, edge, offset);
  else
    walk<2>(keys, num_items, layout, counts, edge, offset);
}

void put(void* out, int width, std::int64_t index, std::int64_t value) {
  if (width == 1)
    static_cast<std::uint8_t*>(out)[index] = static_cast<std::uint8_t>(value);
  else if (width == 2)
    static_cast<std::uint16_t*>(out)[index] = static_cast<std::uint16_t>(value);
  else
    static_cast<std::int32_t*>(out)[index] = static_cast<std::int32_t>(value);
}

bool begins_block(std::int64_t n) { return (n & ((1 << offset_block_bits) - 1)) == 0; }

}  // namespace

KeyLayout key_layout(int num_levels, const std::int64_t* codebook_sizes) {
  KeyLayout layout{};
  layout.num_levels = num_levels;
  layout.num_words = 1;
  int used = 0;
  for (int l = num_levels - 1; l >= 0; --l) {
    const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(codebook_sizes[l] - 1))));
    if (used + bits > 64) {  // at most once: four codes of 16 bits fill a word, and there are at most eight
      ++layout.num_words;
      used = 0;
    }
    layout.word[l] = layout.num_words - 1;
    layout.shift[l] = used;
    layout.bits[l] = bits;
    used += bits;
  }
  return layout;
}

void trie_build_range(const CodeArray& codes, const std::int64_t* limits, std::int64_t* maxima) {
  with_type(codes, [&](auto zero) {
    using T = decltype(zero);
    std::fill(maxima, maxima + codes.num_levels, 0);
    for (std::int64_t begin = 0; begin < codes.num_items; begin += block) {
      const std::int64_t end = std::min(begin + block, codes.num_items);
      for (int level = 0; level < codes.num_levels; ++level) {
        std::uint64_t largest = 0;
        for (std::int64_t i = begin; i < end; ++i) largest = std::max(largest, code_at<T>(codes, i, level));
        if (largest >= static_cast<std::uint64_t>(limits[level])) report_bad_code<T>(codes, begin, limits);
        maxima[level] = std::max(maxima[level], static_cast<std::int64_t>(largest));
      }
    }
  });
}

int trie_build_sort(const CodeArray& codes, const KeyLayout& layout, std::uint64_t* const keys[2],
                    std::int32_t* const items[2]) {
  const std::int64_t count = codes.num_items;
  const int words = layout.num_words;
  const std::vector<Digit> digits = digits_of(layout);
  constexpr std::size_t buckets = std::size_t{1} << max_digit_bits;
  std::vector<std::uint32_t> histograms(digits.size() * buckets, 0);

  with_type(codes, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t begin = 0; begin < count; begin += block) {
      const std::int64_t end = std::min(begin + block, count);
      std::fill(keys[0] + begin * words, keys[0] + end * words, 0);
      for (int l = 0; l < codes.num_levels; ++l) {
        const std::uint64_t mask = (std::uint64_t{1} << layout.bits[l]) - 1;  // should a code change under our hands
        for (std::int64_t i = begin; i < end; ++i)
          keys[0][i * words + layout.word[l]] |= (code_at<T>(codes, i, l) & mask) << layout.shift[l];
      }
      for (std::size_t d = 0; d < digits.size(); ++d) {
        std::uint32_t* histogram = histograms.data() + d * buckets;
        for (std::int64_t i = begin; i < end; ++i)
          ++histogram[digit_value(keys[0][i * words + digits[d].word], digits[d])];
      }
    }
  });

  int from = 0;
  bool in_order = true;  // items[from] is 0, 1, 2, ... and not written yet
  for (std::size_t d = 0; d < digits.size(); ++d) {
    std::uint32_t* next = histograms.data() + d * buckets;
    if (next[digit_value(keys[from][digits[d].word], digits[d])] == count) continue;  // constant
    std::uint32_t sum = 0;
    for (std::size_t b = 0; b < buckets; ++b) {
      const std::uint32_t here = next[b];
      next[b] = sum;
      sum += here;
    }
    const std::int32_t* items_in = in_order ? nullptr : items[from];
    if (words == 1)
      scatter<1>(keys[from], items_in, count, digits[d], next, keys[1 - from], items[1 - from]);
    else
      scatter<2>(keys[from], items_in, count, digits[d], next, keys[1 - from], items[1 - from]);
    from = 1 - from;
    in_order = false;
  }
  if (in_order)
    for (std::int64_t i = 0; i < count; ++i) items[from][i] = static_cast<std::int32_t>(i);
  return from;
}

TrieSizes trie_build_size(const std::uint64_t* keys, std::int64_t num_items, const KeyLayout& layout) {
  TrieSizes sizes{};
  std::int64_t base[max_trie_levels + 1] = {}, largest[max_trie_levels + 1] = {};
  walk(
      keys, num_items, layout, sizes.num_edges, [](int, std::int64_t, std::uint32_t) {},
      [&](int level, std::int64_t node, std::int64_t value) {
        if (begins_block(node)) base[level] = value;
        largest[level] = std::max(largest[level], value - base[level]);
      });
  std::copy(largest, largest + layout.num_levels, sizes.max_child_delta);
  sizes.max_leaf_delta = largest[layout.num_levels];
  return sizes;
}

void trie_build(const std::uint64_t* keys, std::int64_t num_items, const KeyLayout& layout, const TrieOut& out) {
  std::int64_t counts[max_trie_levels], base[max_trie_levels + 1] = {};
  OffsetsOut offsets[max_trie_levels + 1];
  std::copy(out.child, out.child + layout.num_levels, offsets);
  offsets[layout.num_levels] = out.leaf;
  walk(
      keys, num_items, layout, counts,
      [&](int level, std::int64_t index, std::uint32_t code) {
        put(out.tokens[level], out.token_widths[level], index, code);
      },
      [&](int level, std::int64_t node, std::int64_t value) {
        if (begins_block(node)) {
          base[level] = value;
          offsets[level].bases[node >> offset_block_bits] = static_cast<std::int32_t>(value);
        }
        put(offsets[level].deltas, offsets[level].width, node, value - base[level]);
      });
}

}  // namespace genrec
