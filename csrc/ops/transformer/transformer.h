// Native inference of a transformer stack: each prompt is read once, beams are rows over its keys and values.
//
// Weights are one flat block that says what it is (written by ops/transformer_pack.py, read by transformer_layout.cpp):
// an int64 header, then parts at multiples of 64 bytes. Hidden rows come in and go out; embeddings and the search are
// the caller's. Keys and values of prompts lie packed as the products read them, layer by layer, user by user, head by
// head: panels of keys as columns over their width, then panels of value columns over keys; bfloat16 where the weights
// are not float32 and the instruction set multiplies it, in pairs as core/gemm.h has them.
#pragma once
#include <cstdint>

namespace genrec {

struct TransformerSizes {  // of the instruction set in use
  std::int64_t panel_width, tile_rows;
  bool bfloat16;  // multiplies it
};
TransformerSizes active_transformer_sizes();

enum class Precision : int { float32 = 0, bfloat16 = 1, int8 = 2 };
enum class Activation : int { none = 0, relu = 1, gelu = 2, gelu_tanh = 3, silu = 4 };

struct Linear {  // absent: panels is null
  const void* panels;
  const float *bias, *scales;  // [out padded to panels]; bias may be null, scales: int8 alone
  const std::int32_t* sums;    // int8: of each column's weights
  std::int64_t in, out;
};

struct Norm {  // absent: weight is null
  const float *weight, *bias;
};

struct TransformerLayer {
  Norm before_attention;
  Linear qkv;
  const float *q_norm, *k_norm;  // [head_width] or null: root mean square norm of each head
  Linear attended;
  Norm before_cross;
  Linear cross_q, cross_kv, cross_attended;
  Norm before_feed_forward;
  Linear gate, up, down;
};

struct TransformerStack {
  std::int64_t width, num_layers, num_heads, num_kv_heads, head_width, ff_width;
  std::int64_t head_size;     // rows of the head; 0: none
  std::int64_t cross_width;   // of the encoder's rows; 0: no cross-attention
  std::int64_t rotary_width;  // channels of a head that positions turn; 0: none
  std::int64_t window;        // keys a query sees at most, itself among them; 0: all
  Precision precision;
  Activation activation;
  bool layer_norm, causal;
  float epsilon, score_scale;
  const TransformerLayer* layers;
  Norm last_norm;
  Linear head;
};

// Tables by position, which the caller makes.
struct TransformerTables {
  const float* rotary;  // [num_positions][rotary_width]: cosines, then sines; null: none
  std::int64_t num_positions, rotary_width;
  const float* distance;  // [num_heads][distance_size], read at distance_size / 2 + key - query; null: none
  std::int64_t distance_size, distance_heads;
};

// Keys and values of prompts or of an encoder's rows, of all layers.
struct TransformerCache {
  float* values;                // null: none
  const std::int64_t* offsets;  // [num_users + 1] of the prompts
  std::int64_t num_floats;
};

struct TransformerWeights {
  const void* block;
  std::int64_t bytes, stack;  // which stack of the block
  std::int64_t rows_width;    // channels of the caller's rows: must be the stack's (or its encoder's)
};

// Floats of a cache: of all layers of this stack, for its own keys or for those of the encoder; of num_rows rows.
std::int64_t transformer_cache_size(const TransformerWeights& weights, const std::int64_t* offsets,
                                    std::int64_t num_users, std::int64_t num_rows, bool cross);

// Rows that are a table's, whatever their positions, meet the first layer's product once, and are looked up ever after.
struct TransformerFirst {
  const float* table;          // [num_tokens, (num_heads + 2 num_kv_heads) head_width], of transformer_first; or null
  const std::int64_t* tokens;  // of every row of the call
  std::int64_t num_tokens, width;
};

// What was read of each user before: a cache of that user alone, the first rows of which stand before the new ones.
struct TransformerPast {
  const float* const* values;                // [num_users]; null: no user has one
  const std::int64_t *floats, *rows, *used;  // [num_users]: of each cache; the first `used` of its rows count
};

struct TransformerPrefill {
  TransformerWeights weights;
  const float* rows;            // [E, width]
  std::int64_t num_rows;        // E
  const std::int64_t* offsets;  // [num_users + 1] of the rows
  TransformerFirst first;
  std::int64_t num_users;
  TransformerTables tables;
  TransformerPast past;
  TransformerCache cache;  // written; its offsets count what stands before the rows, too
  TransformerCache cross;  // read
  bool only_last;          // hidden [num_users, width] of each prompt's last row; else [E, width]
  float* hidden;
  int num_threads;
};
void transformer_prefill(const TransformerPrefill& args);

// What the first layer's norm and product make of rows: its queries, keys and values, before they are turned.
void transformer_first(const TransformerWeights& weights, const float* rows, std::int64_t num_rows, float* table,
                       std::int64_t table_width, int num_threads);

// Keys and values of an encoder's rows for every layer of a decoder.
void transformer_cross(const TransformerWeights& weights, const float* rows, std::int64_t num_rows,
                       const TransformerCache& cache, std::int64_t num_users, int num_threads);

struct TransformerStep {
  TransformerWeights weights;
  const float* rows;      // [num_users * num_beams, width], or as many as `users` says
  std::int64_t num_rows;  // of them
  TransformerFirst first;
  std::int64_t num_users, num_beams, num_steps;
  TransformerTables tables;
  TransformerCache cache, cross;  // read
  const float* const* chain;      // [num_steps]: [num_layers, chain_rows[step], 2, num_kv_heads * head_width]
  const std::int64_t *chain_rows, *chain_floats;  // floats: of the whole part
  const std::int32_t* ancestors;  // [depth, rows]: each row's ancestor among the rows of a step, oldest first
  // Null: the ancestor at depth j is a row of step j, and depth is num_steps (or 0:
  // rows behind their prompts alone). Else [depth, rows]: the step that made
  // the ancestor, num_steps for an earlier row of this very call, -1 behind a row's last ancestor.
  const std::int32_t* parts;
  std::int64_t depth;
  float* kept;  // [num_layers, rows, 2, num_kv_heads * head_width], written
  std::int64_t kept_floats;
  float* hidden;  // [rows, width], after the last norm
  int num_threads;
  const std::int32_t* users = nullptr;  // [rows]: whose each row is; null: num_beams rows of each, user by user
};
void transformer_step(const TransformerStep& args);

// logits [num_rows, last - first] of vocabulary [first, last); log_sums [num_rows] over the whole vocabulary, or null.
struct TransformerHead {
  TransformerWeights weights;
  const float* hidden;
  std::int64_t num_rows, first, last;
  float *logits, *log_sums;
  int num_threads;
};
void transformer_head(const TransformerHead& args);

// ---- between transformer*.cpp and the bodies

// Rows that pass through the layers together. All strides are whole vectors, the last of a row padded with zeros.
struct TransformerRows {
  const TransformerStack* stack;
  TransformerTables tables;  // `distance` padded behind each head, distance_size floats apart, at distance 0
  TransformerCache cache, cross;
  const std::int64_t *cells, *cross_cells;  // by user: where its keys begin within a layer
  std::int64_t layer_floats, cross_layer_floats;
  const std::int32_t *users, *positions;  // [num_rows]
  const std::int64_t* row_offsets;        // of prompts: where each user's rows begin in the call
  const TransformerPast* past;            // of prompts; null: none
  float *x, *qkv;                         // [num_rows][x_stride], [num_rows][qkv_stride]
  std::int64_t x_stride, qkv_stride;
  std::int64_t num_rows;
  std::int64_t first_row;       // which row of the call the first of these is
  const float* first_table;     // null: the first layer makes its own queries, keys and values
  const std::int64_t* tokens;   // of the first of these rows
  const TransformerStep* step;  // null: prompts; else rows see their prompt, their ancestors and themselves
};

// One thread's working memory, for `chunk` rows.
struct TransformerScratch {
  float *normed, *attended, *wide;  // [chunk][...]
  std::int64_t normed_stride, attended_stride, wide_stride;
  float* line;  // [tile_rows][line_stride]
  std::int64_t line_stride;
  void* rounded;  // [chunk][in padded]: bfloat16 or int8 rows of a product
  // bfloat16 of attention: a tile's weights [tile_rows][line_stride] and queries, or a head's [longest] keys; rows of
  // head_width in whole vectors
  std::uint16_t* halves;
  float* row_scale;  // [chunk]: int8
};

}  // namespace genrec
