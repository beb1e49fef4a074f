// What both kernels of beam attention know, and the second one: a query's chain of ancestors, and what the chunks of
// the prompt and the chain add up to. See beam_attention.cuh.
#pragma once
#include "attention_tile.cuh"

namespace beam_attention {

using attention::first_tile;
using attention::larger;
using attention::Offset;
using attention::smaller;

constexpr int chunk = 512;  // keys of a prompt that one block takes
constexpr int ahead = 4;    // ancestors whose keys a warp asks for at once

struct Args {  // python/genrec_fast/ops/_cuda_beam_attention.py writes the same
  const void *q, *prompt_keys, *prompt_values, *keys, *values;
  Offset q_user, q_beam, q_head;  // elements from one to the next; the last dimension lies together
  Offset prompt_key_row, prompt_key_head, prompt_value_row, prompt_value_head;
  Offset key_user, key_row, key_head, value_user, value_row, value_head;
  const Offset* offsets;  // [users + 1], or null: there are no prompts
  const int* parents;     // [users, num_rows]
  const float* bias;      // [heads, bias_size] by distance, or null
  Offset prompt_rows;
  int users, beams, heads, key_heads, width, value_width, num_rows, bias_size;
  float scale;
  int whole_vectors;  // queries, keys and values of prompts are made of 16 bytes, aligned
};

// Steps upwards from a row, one at a time. A parent that is no earlier row ends the chain, and `wrong` says so.
struct Chain {
  const int* parents;
  int row;
  bool wrong = false;

  DEVICE_INLINE Chain(const Args& args, int user, int beam)
      : parents(args.parents + static_cast<Offset>(user) * args.num_rows), row(args.num_rows - args.beams + beam) {
    if (args.num_rows == 0) row = -1;
  }
  // The row to look at now, or -1 behind the last one.
  DEVICE_INLINE int next() {
    const int here = row;
    if (here < 0) return -1;
    const int parent = parents[here];
    wrong = wrong || parent < -1 || parent >= here;
    row = wrong ? -1 : parent;
    return here;
  }
};

// What a score of query head `head` gets for a key so many tokens back.
DEVICE_INLINE float bias_at(const Args& args, int head, int distance) {
  return args.bias[static_cast<Offset>(head) * args.bias_size + smaller(distance, args.bias_size - 1)];
}

// A query's weighted values so far: lane l holds columns l, l + 32, ...
template <int Columns>
struct Running {
  static constexpr int own = Columns / 32;
  float highest = negative_infinity(), total = 0.0f, sums[own] = {};

  // Makes room for scores up to `score`; returns what they are to be taken relative to.
  DEVICE_INLINE float raise(float score) {
    const float most = fmaxf(highest, score), above = most == negative_infinity() ? 0.0f : most;
    const float factor = __expf(highest - above);
    total *= factor;
#pragma unroll
    for (int j = 0; j < own; ++j) sums[j] *= factor;
    highest = most;
    return above;
  }
};

template <int Columns>
DEVICE_INLINE void add_chunks(const Args& args, const float* sums, const float* peaks, Running<Columns>& running,
                              Offset unit, Offset count, Offset query, int lane) {
  const Offset queries = static_cast<Offset>(args.beams) * args.heads;
#pragma unroll 2
  for (Offset c = 0; c < count; ++c) {
    const Offset row = (unit + c) * queries + query;
    const float highest = peaks[2 * row];
    const float factor = __expf(highest - running.raise(highest));
    running.total = fmaf(peaks[2 * row + 1], factor, running.total);
#pragma unroll
    for (int j = 0; j < Running<Columns>::own; ++j)
      if (lane + 32 * j < args.value_width)
        running.sums[j] = fmaf(sums[row * args.value_width + lane + 32 * j], factor, running.sums[j]);
  }
}

// Returns whether all parents are earlier rows.
template <class Element, int Columns>
DEVICE_INLINE bool add_chain(const Args& args, Running<Columns>& running, int user, int beam, int head, int lane) {
  using T = typename Element::Type;
  constexpr int own = Columns / 32;
  const int key_head = head / (args.heads / args.key_heads);
  const T* const q = static_cast<const T*>(args.q) + user * args.q_user + beam * args.q_beam + head * args.q_head;
  const T* const k = static_cast<const T*>(args.keys) + user * args.key_user + key_head * args.key_head;
  const T* const v = static_cast<const T*>(args.values) + user * args.value_user + key_head * args.value_head;
  float query[own];
#pragma unroll
  for (int j = 0; j < own; ++j) query[j] = lane + 32 * j < args.width ? Element::load(q[lane + 32 * j]) : 0.0f;

  Chain chain(args, user, beam);
  for (int distance = 0; chain.row >= 0; distance += ahead) {
    int rows[ahead];
    float scores[ahead], most = negative_infinity();
#pragma unroll
    for (int i = 0; i < ahead; ++i) rows[i] = chain.next();
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      scores[i] = 0.0f;
#pragma unroll
      for (int j = 0; j < own; ++j)
        if (rows[i] >= 0 && lane + 32 * j < args.width)
          scores[i] = fmaf(query[j], Element::load(k[rows[i] * args.key_row + lane + 32 * j]), scores[i]);
    }
    for (int apart = 16; apart; apart /= 2)
#pragma unroll
      for (int i = 0; i < ahead; ++i) scores[i] += __shfl_xor_sync(all_lanes, scores[i], apart);
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      scores[i] *= args.scale;
      if (args.bias) scores[i] += bias_at(args, head, distance + i);
      if (rows[i] >= 0) most = fmaxf(most, scores[i]);
    }
    const float above = running.raise(most);
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (rows[i] < 0) continue;
      const float weight = __expf(scores[i] - above);
      running.total += weight;
#pragma unroll
      for (int j = 0; j < own; ++j)
        if (lane + 32 * j < args.value_width)
          running.sums[j] = fmaf(weight, Element::load(v[rows[i] * args.value_row + lane + 32 * j]), running.sums[j]);
    }
  }
  return !chain.wrong;
}

// Whether offsets run from 0 to the prompts' end without decreasing. The whole block.
DEVICE_INLINE bool offsets_are_good(const Args& args) {
  if (!args.offsets) return true;
  bool good = args.offsets[0] == 0 && args.offsets[args.users] == args.prompt_rows;
  for (int user = static_cast<int>(threadIdx.x); user < args.users; user += static_cast<int>(blockDim.x))
    good = good && args.offsets[user] <= args.offsets[user + 1];
  return __syncthreads_and(good) != 0;
}

template <class Element, int Columns>
DEVICE_INLINE void attend_to_chain(const Args& args, const float* sums, const float* peaks,
                                   typename Element::Type* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Offset queries = static_cast<Offset>(args.beams) * args.heads;
  const Offset place = static_cast<Offset>(blockIdx.x) * 4 + threadIdx.x / 32;
  bool good = offsets_are_good(args);
  if (place >= queries * args.users) return;
  const int user = static_cast<int>(place / queries), query = static_cast<int>(place % queries);
  Running<Columns> running;
  bool sees_nothing = args.num_rows == 0;
  if (good && args.offsets) {
    const Offset begin = args.offsets[user], length = args.offsets[user + 1] - begin;
    add_chunks(args, sums, peaks, running, first_tile(begin, user, chunk), (length + chunk - 1) / chunk, query, lane);
    sees_nothing = sees_nothing && length == 0;
  }
  if (args.num_rows) good &= add_chain<Element>(args, running, user, query / args.heads, query % args.heads, lane);
  // Scores that are all -inf have no weights: NaN, as in the twin.
  const float factor = good ? 1.0f / (sees_nothing ? 1.0f : running.total) : not_a_number();
#pragma unroll
  for (int j = 0; j < Running<Columns>::own; ++j)
    if (lane + 32 * j < args.value_width)
      out[place * args.value_width + lane + 32 * j] = Element::store(running.sums[j] * factor);
}

}  // namespace beam_attention
