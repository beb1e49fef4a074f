#include "ops/transformer/transformer_layout.h"

#include <bit>
#include <cstddef>

#include "core/check.h"

namespace genrec {
namespace {

constexpr std::int64_t magic = 0x776665636572ull << 8 | 1;  // the last byte is the version
constexpr std::int64_t most = std::int64_t{1} << 31;

class Reader {
 public:
  Reader(const char* op, const TransformerWeights& weights, const TransformerSizes& sizes)
      : op_(op), weights_(weights), sizes_(sizes), words_(static_cast<const std::int64_t*>(weights.block)) {
    check(reinterpret_cast<std::uintptr_t>(weights.block) % 8 == 0, op,
          ": weights must lie at a multiple of 8 bytes (clone() the block), got another address");
    if (weights.block && weights.bytes >= 48) num_words_ = 6;
    need(num_words_ == 6 && word(0) == magic, "is no block of pack_weights of this version");
    need(word(1) == weights.bytes, "is cut short");
    need(word(2) >= 6 && word(2) <= weights.bytes / 8, "has a header that runs past its end");
    num_words_ = word(2);
    need(word(3) == sizes.panel_width, "was packed for another instruction set (pack it again on this machine)");
    need(word(4) >= 0 && word(4) <= 2, "holds no known precision");
    need(word(5) >= 1 && word(5) <= 64, "holds no stack");
    precision_ = static_cast<Precision>(word(4));
    if (precision_ == Precision::bfloat16 && !sizes.bfloat16)
      throw UnsupportedError(message(op, ": bfloat16 weights need an instruction set that multiplies them"));
    check(weights.stack >= 0 && weights.stack < word(5), op, ": stack must be in [0, ", word(5), "), got ",
          weights.stack);
    at_ = word(6 + weights.stack);
  }

  ReadStack read() {
    ReadStack out{};
    TransformerStack& s = out.stack;
    for (std::int64_t* size : {&s.width, &s.num_layers, &s.num_heads, &s.num_kv_heads, &s.head_width, &s.ff_width,
                               &s.head_size, &s.cross_width, &s.rotary_width, &s.window})
      *size = next_size();
    const std::int64_t activation = next_size();
    s.layer_norm = next_size() != 0;
    s.causal = next_size() != 0;
    s.epsilon = next_number(), s.score_scale = next_number();
    s.precision = precision_;
    s.activation = static_cast<Activation>(activation);
    need(s.width > 0 && activation <= 4 && s.num_layers < 4096, "describes no stack");
    need(s.num_layers == 0 || (s.num_heads > 0 && s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0 &&
                               s.head_width > 0 && s.ff_width > 0 && s.rotary_width <= s.head_width &&
                               s.rotary_width % 2 == 0 && s.num_heads * s.head_width < most / 8),
         "describes no stack");
    const std::int64_t heads = s.num_heads * s.head_width, kv = s.num_kv_heads * s.head_width;
    s.last_norm = norm(s.width);
    s.head = linear(s.width, s.head_size);
    need(s.head_size == 0 || s.head.panels, "lacks its head");
    out.layers.resize(static_cast<std::size_t>(s.num_layers));
    for (TransformerLayer& layer : out.layers) {
      layer.before_attention = norm(s.width);
      layer.qkv = linear(s.width, heads + 2 * kv);
      layer.q_norm = floats(s.head_width), layer.k_norm = floats(s.head_width);
      layer.attended = linear(heads, s.width);
      layer.before_cross = norm(s.width);
      layer.cross_q = linear(s.width, heads);
      layer.cross_kv = linear(s.cross_width, 2 * kv);
      layer.cross_attended = linear(heads, s.width);
      layer.before_feed_forward = norm(s.width);
      layer.gate = linear(s.width, s.ff_width);
      layer.up = linear(s.width, s.ff_width);
      layer.down = linear(s.ff_width, s.width);
      need(layer.before_attention.weight && layer.qkv.panels && layer.attended.panels &&
               layer.before_feed_forward.weight && layer.up.panels && layer.down.panels &&
               (!s.cross_width || (layer.before_cross.weight && layer.cross_q.panels && layer.cross_kv.panels &&
                                   layer.cross_attended.panels)),
           "lacks a part of a layer");
    }
    return out;
  }

 private:
  void need(bool holds, const char* what) const {
    check(holds, op_, ": weights must come from pack_weights, but the block ", what);
  }
  std::int64_t word(std::int64_t i) const {
    need(i >= 0 && i < num_words_, "has a header that runs past its end");
    return words_[i];
  }
  std::int64_t next_size() {
    const std::int64_t size = word(at_++);
    need(size >= 0 && size < most, "has a size out of range");
    return size;
  }
  float next_number() { return static_cast<float>(std::bit_cast<double>(word(at_++))); }

  // A part of the block, or null where its offset is 0.
  template <typename T>
  const T* part(std::int64_t bytes) {
    const std::int64_t offset = word(at_++);
    if (offset == 0) return nullptr;
    need(offset > 0 && offset % 64 == 0 && offset <= weights_.bytes && bytes <= weights_.bytes - offset,
         "has a part that runs past its end");
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(weights_.block) + offset);
  }
  std::int64_t padded(std::int64_t columns) const {
    return (columns + sizes_.panel_width - 1) / sizes_.panel_width * sizes_.panel_width;
  }
  const float* floats(std::int64_t count) { return part<float>(padded(count) * 4); }
  Norm norm(std::int64_t width) {
    const float* weight = floats(width);
    return {weight, floats(width)};
  }
  Linear linear(std::int64_t in, std::int64_t out) {
    const std::int64_t step = precision_ == Precision::int8 ? 4 : precision_ == Precision::bfloat16 ? 2 : 1;
    const std::int64_t size = precision_ == Precision::int8 ? 1 : precision_ == Precision::bfloat16 ? 2 : 4;
    const void* panels = part<void>(padded(out) * ((in + step - 1) / step * step) * size);
    const float* bias = floats(out);
    const float* scales = floats(out);
    const std::int32_t* sums = part<std::int32_t>(padded(out) * 4);
    need(!panels || precision_ != Precision::int8 || (scales && sums), "lacks the scales of a part");
    return {panels, bias, scales, sums, in, out};
  }

  const char* op_;
  const TransformerWeights& weights_;
  const TransformerSizes& sizes_;
  const std::int64_t* words_;
  std::int64_t num_words_ = 0, at_ = 0;
  Precision precision_ = Precision::float32;
};

}  // namespace

ReadStack read_stack(const char* op, const TransformerWeights& weights, const TransformerSizes& sizes) {
  ReadStack out = Reader(op, weights, sizes).read();
  out.stack.layers = out.layers.data();
  return out;
}

}  // namespace genrec
