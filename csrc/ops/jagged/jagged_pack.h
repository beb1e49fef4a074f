// Moving, adding up and multiplying jagged rows: row r of num_rows holds elements [offsets[r], offsets[r + 1]) of
// `values`, each of `width` numbers or `bytes` bytes. Offsets have passed check_offsets (ops/jagged/offsets.h). No
// output overlaps anything. Every result is the same for any number of threads. Cost: each input and output passes
// once.
#pragma once
#include <cstdint>

namespace genrec {

struct PackArgs {
  const std::int64_t* offsets;  // [num_rows + 1]
  std::int64_t num_rows, bytes;
  int num_threads;
};

// padded [num_rows, max_len]: what a row has beyond max_len is left out, missing elements repeat the item at `padding`
// (item_size bytes, a divisor of `bytes`).
void jagged_pad(const PackArgs& args, const void* values, std::int64_t max_len, const void* padding,
                std::int64_t item_size, void* padded);
// The way back: elements beyond max_len become bytes of 0.
void jagged_unpad(const PackArgs& args, const void* padded, std::int64_t max_len, void* values);
// values: element r of `rows` as often as row r is long.
void jagged_spread(const PackArgs& args, const void* rows, void* values);

// Rows of several parts end to end: part 0's row 0, part 1's row 0, ..., part 0's row 1, ...
struct JoinArgs {
  const std::int64_t* const* offsets;  // of num_parts parts
  std::int64_t num_parts, num_rows, bytes;
  int num_threads;
};
void jagged_join(const JoinArgs& args, const void* const* parts, void* joined);
void jagged_part(const JoinArgs& args, const void* joined, void* const* parts);

// out[i] = table[ids[i]], elements of `bytes` bytes. Throws ValueError on an id outside [0, table_rows).
void gather_rows(const void* table, std::int64_t table_rows, std::int64_t bytes, const std::int64_t* ids,
                 std::int64_t count, int num_threads, void* out);
// Positions of equal ids together, in the order of ids, then of positions: group g has id unique[g] and positions
// order[starts[g]] ... Outputs have room for count (starts: count + 1). Returns the number of groups. Radix sort: 11
// bits a pass. Throws ValueError as gather_rows.
std::int64_t group_ids(const std::int64_t* ids, std::int64_t count, std::int64_t table_rows, std::int64_t* order,
                       std::int64_t* unique, std::int64_t* starts);

struct SegmentArgs {
  const void* values;           // [elements, width]
  int element;                  // RqElement: 0 float32, 1 bfloat16, 2 float16
  const std::int64_t* order;    // place of element e in values; null: e
  const std::int64_t* offsets;  // [num_rows + 1]
  std::int64_t num_rows, width;
  const std::int64_t* to;  // place of row r in out, all different; null: r
  int num_threads;
};
// out[to[r]] = the sum of row r's elements, float32, one after the other (equal bits on every instruction set).
void segment_sum(const SegmentArgs& args, float* out);

}  // namespace genrec
