// A step of a walk over a graph of items, as ops/reference/graph_step.py defines it. Two kernels:
//
//   gather  a thread per user, item and neighbour: the first that puts an id into the user's hash table scores it
//   best    a block per user: the best of these, in order
//
// Which thread is the first shows nowhere: keys are unique, and a set has no order. A user with a value that the op
// refuses gets scores NaN, items -2 (which the next step refuses again) and num_seen -1.
#include "code_sums.cuh"

struct GraphStep {  // python/genrec_fast/ops/_cuda_code_sums.py writes the same
  CodeSums sums;
  const int* neighbours;  // [num_items, num_edges]
  const int* items;       // [users, num_from]
  long long num_edges, num_from, num_beams;
  long long capacity;  // different neighbours that a user may have
  int chunks;          // blocks of a user
  int log_slots;       // of a user's hash table: more than twice the capacity
  int* slots;          // [users, 1 << log_slots], -1 before
  Key* keys;           // [users, capacity]
  int* counts;         // [users], 0 before
  int* wrong;          // [users], 0 before
  Key* sorted;         // [users, num_beams]
};

// Whether the id is new to the user.
DEVICE_INLINE bool enters(const GraphStep& step, long long user, int id) {
  int* const slots = step.slots + (user << step.log_slots);
  const unsigned last = (1u << step.log_slots) - 1u;
  unsigned at = static_cast<unsigned>(id) * 2654435769u >> (32 - step.log_slots);
  for (unsigned tries = 0; tries <= last; ++tries, at = (at + 1u) & last) {
    const int other = atomicCAS(slots + at, -1, id);
    if (other == -1) return true;
    if (other == id) return false;
  }
  return false;  // the table has more slots than ids come
}

template <class Code>
DEVICE_INLINE void gather_neighbours(const GraphStep& step) {
  const CodeSums& sums = step.sums;
  const long long user = blockIdx.x / step.chunks, chunk = blockIdx.x % step.chunks;
  bool wrong = chunk == 0 && !are_scores(sums, user);
  const float* const row = sums.logprobs + user * sums.width;
  const auto score_at = [&](long long place, int) { return __ldg(row + place); };
  const long long place = chunk * blockDim.x + threadIdx.x;
  if (place < step.num_from * step.num_edges) {
    const int item = step.items[user * step.num_from + place / step.num_edges];
    const bool stands = item >= 0 && item < sums.num_items;
    const int id = stands ? step.neighbours[item * step.num_edges + place % step.num_edges] : -1;
    const bool there = id >= 0 && id < sums.num_items;
    wrong = wrong || (!stands && item != -1) || (!there && id != -1);
    if (there && enters(step, user, id)) {
      float total[1];
      wrong = !sum_codes<Code>(sums, id, total, score_at) || wrong;
      step.keys[user * step.capacity + atomicAdd(step.counts + user, 1)] = key_of_sum(total[0], id);
    }
  }
  if (wrong) atomicOr(step.wrong + user, 1);
}

// The tensor of each says the card.
extern "C" __global__ void __launch_bounds__(256) graph_step_gather_uint8(GraphStep step, const float*) {
  gather_neighbours<unsigned char>(step);
}
extern "C" __global__ void __launch_bounds__(256) graph_step_gather_int32(GraphStep step, const float*) {
  gather_neighbours<int>(step);
}

extern "C" __global__ void __launch_bounds__(1024)
    graph_step_best(GraphStep step, int* reached, float* scores, int* num_seen) {
  __shared__ BestScratch scratch;
  const long long user = blockIdx.x, count = step.counts[user];
  const bool wrong = step.wrong[user] != 0;
  const Best best =
      best_of(step.keys + user * step.capacity, count, step.num_beams, step.sorted + user * step.num_beams, scratch);
  for (long long i = threadIdx.x; i < step.num_beams; i += blockDim.x) {
    const bool there = i < best.count;
    const float score = there ? score_in(~best.keys[i]) : negative_infinity();
    scores[user * step.num_beams + i] = wrong ? not_a_number() : score;
    reached[user * step.num_beams + i] = wrong ? -2 : there ? id_in(~best.keys[i]) : -1;
  }
  if (threadIdx.x == 0) num_seen[user] = wrong ? -1 : static_cast<int>(count);
}
