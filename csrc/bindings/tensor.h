// The typed border: a torch tensor as a kernel takes it. Pointer, dtype, sizes, strides and device are read from the
// object itself, without libtorch: through DLPack's exchange functions where torch has them (60 ns a tensor), else
// through Python's attributes (0.6 us).
#pragma once
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/check.h"

namespace genrec::bindings {

// An argument is of the wrong type (Python: errors.InvalidTypeError).
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// As DLPack has it: code 0 signed, 1 unsigned, 2 float, 4 bfloat16, 5 complex, 6 bool.
struct Dtype {
  std::uint8_t code, bits;
  std::uint16_t lanes = 1;
  bool operator==(const Dtype&) const = default;
};
constexpr Dtype bfloat16{4, 16}, float16{2, 16};

template <typename T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, bool>) return {6, 8};
  if constexpr (std::is_floating_point_v<T>) return {2, sizeof(T) * 8};
  return {std::is_unsigned_v<T>, sizeof(T) * 8};
}

template <typename T>
constexpr const char* name_of() {
  if constexpr (std::is_same_v<T, bool>) return "bool";
  if constexpr (std::is_floating_point_v<T>) return sizeof(T) == 4 ? "float32" : "float64";
  return sizeof(T) == 1 ? "uint8" : sizeof(T) == 4 ? "int32" : "int64";
}

// Sizes and strides (in elements) are the tensor's own: to be read before the GIL is released.
struct Tensor {
  void* data;
  int dims;
  Dtype dtype;
  const std::int64_t *sizes, *strides;
  bool on_cpu;

  std::int64_t element_size() const { return dtype.bits * dtype.lanes / 8; }
  std::int64_t elements(int first = 0) const;  // in the dimensions from `first` on
  // Its elements lie end to end; with `free`, those behind every index of so many first dimensions do, and no two of
  // these blocks overlap.
  bool is_whole(int free = 0) const;
  std::string text() const;  // "float32 [8, 50]"
};

// How the elements may lie in memory.
enum class Layout {
  copied,  // anyhow: a tensor whose elements are not end to end, not aligned, or held negated is copied
  whole,   // end to end, else an error
};

// What a message calls an argument.
struct Label {
  const char *op, *name;
  int index = -1;         // of a list
  bool of_level = false;  // "tokens of level 0", not "codebooks[0]"
  std::string text() const;
};

struct Bytes {
  const void* data;
  std::int64_t size;
};

// Finds torch.Tensor and how it is read; called once, when the module is made.
void find_torch();

// The tensors of one call, and what was copied of them. To be destroyed with the GIL held.
class TensorReader {
 public:
  // Throws TypeError where it is no tensor; ValueError where it is not on the CPU, has no data, or lies otherwise.
  // alignment: of the first element, in bytes; 0: its size. free: as in Tensor::is_whole.
  Tensor read(const Label& label, PyObject* object, Layout layout, std::int64_t alignment = 0, int free = 0);

  // What memory holds of a Tensor or Parameter; none where that is not its elements in order, as they are meant: it
  // lies otherwise, elsewhere, negated, conjugated, is of another kind, or no tensor at all.
  std::optional<Bytes> bytes(PyObject* object);

  // A hint: what a tensor's Python object points to will be read soon.
  static void fetch(PyObject* object);

  // Whether it is a Tensor or Parameter of float32, bfloat16 or float16, of two dimensions, on the CPU, with data.
  bool is_float_matrix(PyObject* object);

 private:
  Tensor look(PyObject* object);
  std::optional<Tensor> look_at_dense(PyObject* object);
  Tensor view(const Label& label, PyObject* object);
  Tensor by_attributes(PyObject* object);

  std::deque<std::vector<std::int64_t>> sizes_;
  std::vector<pybind11::object> copies_;
};

}  // namespace genrec::bindings
