// Keys and values of prompts as attention reads them (transformer.h has the layout). Included by per-ISA files alone.
#pragma once
#include <cstdint>

#include "core/gemm.h"
#include "ops/transformer/transformer.h"
#include "ops/transformer/transformer_rows.h"

namespace genrec::GENREC_ISA {

// Whether keys and values of prompts are bfloat16: weights that are rounded leave no more behind, and half the memory
// and half the products do.
constexpr bool halves(const TransformerStack& stack) { return GENREC_BF16 && stack.precision != Precision::float32; }

// Keys and values of one user and head of keys.
template <class Element>
struct Known {
  Element *keys, *values;
  std::int64_t count;
};

// bfloat16 is multiplied in pairs.
template <class Element>
constexpr std::int64_t in_groups(std::int64_t count) {
  return sizeof(Element) == 4 ? count : (count + 1) / 2 * 2;
}

template <class Element>
static inline std::int64_t key_elements(std::int64_t keys, std::int64_t width) {
  return num_panels(keys) * panel_width * in_groups<Element>(width);
}

// Floats of one head.
template <class Element>
static inline std::int64_t head_cell(std::int64_t keys, std::int64_t width) {
  const std::int64_t values = num_panels(width) * panel_width * in_groups<Element>(keys);
  return (key_elements<Element>(keys, width) + values) / static_cast<std::int64_t>(4 / sizeof(Element));
}

static inline std::int64_t num_keys(const TransformerCache& cache, std::int64_t user) {
  return cache.offsets[user + 1] - cache.offsets[user];
}

template <class Element>
static inline Known<Element> known(const TransformerRows& rows, bool cross, std::int64_t layer, std::int64_t user,
                                   std::int64_t head) {
  const TransformerCache& cache = cross ? rows.cross : rows.cache;
  const std::int64_t count = num_keys(cache, user), width = rows.stack->head_width;
  float* cell = cache.values + layer * (cross ? rows.cross_layer_floats : rows.layer_floats) +
                (cross ? rows.cross_cells : rows.cells)[user] + head * head_cell<Element>(count, width);
  Element* keys = reinterpret_cast<Element*>(cell);
  return {keys, keys + key_elements<Element>(count, width), count};
}

// Rows as the products of attention read them. `width` columns of fp32 rows; whole vectors are read.
#if GENREC_BF16
static inline void round_rows(const float* rows, std::int64_t stride, std::int64_t count, std::int64_t width,
                              std::uint16_t* to, std::int64_t to_stride) {
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t c = 0; c < width; c += lanes) store_bfloat16(to + r * to_stride + c, load(rows + r * stride + c));
    if (width % 2) to[r * to_stride + width] = 0;
  }
}
#endif

static inline void keep(const float* keys, const float* values, std::int64_t stride, const Known<float>& place,
                        std::int64_t width, const TransformerScratch&) {
  pack(keys, stride, 0, place.count, width, place.keys);
  pack_rows(values, stride, place.count, place.count, width, place.values);
}

#if GENREC_BF16
static inline void keep(const float* keys, const float* values, std::int64_t stride, const Known<std::uint16_t>& place,
                        std::int64_t width, const TransformerScratch& scratch) {
  const std::int64_t words = in_groups<std::uint16_t>(width) / 2, padded = whole_vectors(width);
  round_rows(keys, stride, place.count, width, scratch.halves, padded);
  pack(reinterpret_cast<const float*>(scratch.halves), padded / 2, 0, place.count, words,
       reinterpret_cast<float*>(place.keys));
  round_rows(values, stride, place.count, width, scratch.halves, padded);
  pack_rows(scratch.halves, padded, place.count, in_groups<std::uint16_t>(place.count), width, place.values);
}
#endif

// `used` keys of an earlier cache, and behind them rows [to.count - used][stride].
template <class Element>
static inline void join_keys(const Element* past, std::int64_t used, const Element* rows, std::int64_t stride,
                             const Known<Element>& to, std::int64_t width) {
  constexpr std::int64_t group = 4 / sizeof(Element);
  const std::int64_t panel = panel_width * in_groups<Element>(width), copied = num_panels(used) * panel;
  __builtin_memcpy(to.keys, past, static_cast<std::size_t>(copied) * sizeof(Element));
  __builtin_memset(to.keys + copied, 0,
                   static_cast<std::size_t>(num_panels(to.count) * panel - copied) * sizeof(Element));
  for (std::int64_t key = used; key < to.count; ++key) {
    Element* place = to.keys + key / panel_width * panel + key % panel_width * group;
    for (std::int64_t c = 0; c < width; ++c)
      place[c / group * group * panel_width + c % group] = rows[(key - used) * stride + c];
  }
}

// The same for values; `past_count` keys are in the earlier cache.
template <class Element>
static inline void join_values(const Element* past, std::int64_t past_count, std::int64_t used, const Element* rows,
                               std::int64_t stride, const Known<Element>& to, std::int64_t width) {
  constexpr std::int64_t group = 4 / sizeof(Element);
  const std::int64_t panel = panel_width * in_groups<Element>(to.count), whole = used / group * group * panel_width;
  for (std::int64_t p = 0; p < num_panels(width); ++p) {
    const Element* from = past + p * panel_width * in_groups<Element>(past_count);
    Element* place = to.values + p * panel;
    __builtin_memcpy(place, from, static_cast<std::size_t>(whole) * sizeof(Element));
    __builtin_memset(place + whole, 0, static_cast<std::size_t>(panel - whole) * sizeof(Element));
    if (used % group)  // of the last pair the first alone
      for (std::int64_t c = 0; c < panel_width; ++c) place[whole + c * group] = from[whole + c * group];
  }
  for (std::int64_t key = used; key < to.count; ++key) {
    Element* place = to.values + key / group * group * panel_width + key % group;
    for (std::int64_t c = 0; c < width; ++c)
      place[c / panel_width * panel + c % panel_width * group] = rows[(key - used) * stride + c];
  }
}

static inline void join(const float* keys, const float* values, std::int64_t stride, const Known<float>& past,
                        std::int64_t used, const Known<float>& place, std::int64_t width, const TransformerScratch&) {
  join_keys(past.keys, used, keys, stride, place, width);
  join_values(past.values, past.count, used, values, stride, place, width);
}

#if GENREC_BF16
static inline void join(const float* keys, const float* values, std::int64_t stride, const Known<std::uint16_t>& past,
                        std::int64_t used, const Known<std::uint16_t>& place, std::int64_t width,
                        const TransformerScratch& scratch) {
  const std::int64_t padded = whole_vectors(width), count = place.count - used;
  round_rows(keys, stride, count, width, scratch.halves, padded);
  join_keys<std::uint16_t>(past.keys, used, scratch.halves, padded, place, width);
  round_rows(values, stride, count, width, scratch.halves, padded);
  join_values<std::uint16_t>(past.values, past.count, used, scratch.halves, padded, place, width);
}
#endif

// One head of what was read of a user before: the earlier cache is that user's alone.
template <class Element>
static inline Known<Element> known_before(const TransformerRows& rows, std::int64_t layer, std::int64_t user,
                                          std::int64_t head) {
  const std::int64_t count = rows.past->rows[user], width = rows.stack->head_width;
  const float* cell =
      rows.past->values[user] + (layer * rows.stack->num_kv_heads + head) * head_cell<Element>(count, width);
  Element* keys = reinterpret_cast<Element*>(const_cast<float*>(cell));
  return {keys, keys + key_elements<Element>(count, width), count};
}

// Keys of one head at keys[row * stride], its values num_kv_heads heads on, behind what was read of the user before.
static inline void join_head(const TransformerRows& rows, std::int64_t layer, std::int64_t user, std::int64_t head,
                             const float* keys, std::int64_t stride, const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const float* values = keys + stack.num_kv_heads * stack.head_width;
  const std::int64_t used = rows.past->used[user];
#if GENREC_BF16
  if (halves(stack))
    return join(keys, values, stride, known_before<std::uint16_t>(rows, layer, user, head), used,
                known<std::uint16_t>(rows, false, layer, user, head), stack.head_width, scratch);
#endif
  join(keys, values, stride, known_before<float>(rows, layer, user, head), used,
       known<float>(rows, false, layer, user, head), stack.head_width, scratch);
}

// Keys of one head at keys[row * stride], its values num_kv_heads heads on.
static inline void keep_head(const TransformerRows& rows, bool cross, std::int64_t layer, std::int64_t user,
                             std::int64_t head, const float* keys, std::int64_t stride,
                             const TransformerScratch& scratch) {
  const TransformerStack& stack = *rows.stack;
  const float* values = keys + stack.num_kv_heads * stack.head_width;
#if GENREC_BF16
  if (halves(stack))
    return keep(keys, values, stride, known<std::uint16_t>(rows, cross, layer, user, head), stack.head_width, scratch);
#endif
  keep(keys, values, stride, known<float>(rows, cross, layer, user, head), stack.head_width, scratch);
}

}  // namespace genrec::GENREC_ISA
