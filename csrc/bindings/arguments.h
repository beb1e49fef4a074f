// A binding: a function that asks for its arguments one by one, by name. None may be missing, misspelt or left over.
//
//   def<[](Arguments& given) {
//     const float* x = given.in<float>("x", "N D");
//     float* sums = given.out<float>("sums", "K D");
//     const std::int64_t rows = given.size('N');
//     const auto unlocked = given.release();
//     op(x, rows, sums);
//   }>(m, "op");
//
// In such a function ">" stands in parentheses or not at all: GCC takes it for the end of the template's arguments.
//
// A shape names its sizes by letters: a letter stands for one size in all of a call, "B+1" for one more, a small letter
// for any, a digit for itself, "..." for any more dimensions.
#pragma once
#include <pybind11/stl.h>

#include <span>

#include "bindings/tensor.h"
#include "core/memory.h"

namespace genrec::bindings {

struct Dtypes {
  const char* words;
  std::span<const Dtype> any_of;  // empty: any
};
template <Dtype... kinds>
inline constexpr Dtype listed[] = {kinds...};
inline constexpr Dtypes floats{"float32, bfloat16 or float16", listed<dtype_of<float>(), bfloat16, float16>};
// 0, 1 or 2, as the kernels number those (RqElement, LogitType).
inline int float_number(Dtype dtype) { return dtype == bfloat16 ? 1 : dtype == float16 ? 2 : 0; }
inline constexpr Dtypes integers{"int32 or int64", listed<dtype_of<std::int32_t>(), dtype_of<std::int64_t>()>};
inline constexpr Dtypes rounded_floats{"bfloat16", listed<bfloat16>};
inline constexpr Dtypes any_dtype{"of any dtype", {}};
template <typename T>
inline constexpr Dtypes only{name_of<T>(), listed<dtype_of<T>()>};

// A list of tensors.
template <typename T>
struct Many {
  std::vector<T*> data;
  std::vector<std::int64_t> rows, columns, elements;  // the first two sizes of each, and all it holds

  std::int64_t count() const { return static_cast<std::int64_t>(data.size()); }
};

class Arguments {
 public:
  Arguments(const char* op, PyObject* const* values, std::int64_t positional, PyObject* names)
      : op_(op), values_(values), positional_(positional), names_(names) {}

  const char* op() const { return op_; }

  // What is read, copied where it does not lie as a kernel reads it; `maybe`: or None, which is null.
  template <typename T>
  const T* in(const char* name, const char* shape) {
    return static_cast<const T*>(tensor(name, only<T>, shape, Layout::copied).data);
  }
  template <typename T>
  const T* maybe(const char* name, const char* shape) {
    return is_none(name) ? nullptr : in<T>(name, shape);
  }
  // What is written (or None, where it may be, which is null).
  template <typename T>
  T* out(const char* name, const char* shape) {
    return static_cast<T*>(tensor(name, only<T>, shape, Layout::whole).data);
  }
  template <typename T>
  T* maybe_out(const char* name, const char* shape) {
    return is_none(name) ? nullptr : out<T>(name, shape);
  }
  template <typename T>
  Many<const T> all(const char* name, const char* shape) {
    return many<const T>(name, only<T>, shape, Layout::copied);
  }

  bool is_float_matrix(const char* name) { return reader_.is_float_matrix(take(name)); }

  // What memory holds of each; none where one of them cannot be read so.
  std::optional<std::vector<Bytes>> all_bytes(const char* name) {
    const auto tensors = items(name);
    std::vector<Bytes> out(tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (i + 16 < tensors.size()) fetch_ahead(tensors[i + 16]);
      if (i + 8 < tensors.size()) TensorReader::fetch(tensors[i + 8]);
      const std::optional<Bytes> found = reader_.bytes(tensors[i]);
      if (!found) return std::nullopt;
      out[i] = *found;
    }
    return out;
  }

  // Rows of which each lies end to end, the `free` first dimensions as they will: strides say how.
  Tensor rows(const char* name, const Dtypes& dtypes, const char* shape, int free) {
    return read({op_, name}, take(name), dtypes, shape, Layout::copied, 0, free);
  }
  // The general form.
  Tensor tensor(const char* name, const Dtypes& dtypes, const char* shape, Layout layout, std::int64_t alignment = 0) {
    return read({op_, name}, take(name), dtypes, shape, layout, alignment);
  }
  Tensor read(const Label& label, PyObject* object, const Dtypes& dtypes, const char* shape, Layout layout,
              std::int64_t alignment = 0, int free = 0);
  template <typename T>
  Many<T> many(const char* name, const Dtypes& dtypes, const char* shape, Layout layout) {
    Many<T> out;
    int index = 0;
    for (PyObject* object : objects(name)) {
      const Tensor found = read({op_, name, index++}, object, dtypes, shape, layout);
      out.data.push_back(static_cast<T*>(found.data));
      out.rows.push_back(found.dims > 0 ? found.sizes[0] : 1);
      out.columns.push_back(found.dims > 1 ? found.sizes[1] : 1);
      out.elements.push_back(found.elements());
    }
    return out;
  }
  // A letter's size; 0 where every tensor that has it was None.
  std::int64_t size(char letter) const {
    const std::int64_t known = sizes_[static_cast<std::size_t>(letter - 'A')];
    return known == 0 ? 0 : known - 1;
  }
  void set_size(char letter, std::int64_t size) { sizes_[static_cast<std::size_t>(letter - 'A')] = size + 1; }

  std::int64_t number(const char* name);
  std::vector<std::int64_t> numbers(const char* name);
  double real(const char* name);
  bool flag(const char* name);
  std::string text(const char* name);
  int threads() { return static_cast<int>(number("num_threads")); }
  template <typename T>
  T* address(const char* name) {  // of memory that is no tensor's, or whose address the caller keeps
    return static_cast<T*>(pointer(name, alignof(T)));
  }
  std::vector<PyObject*> objects(const char* name);    // a list's
  std::span<PyObject* const> items(const char* name);  // the same in place: for as long as no Python code runs
  bool is_none(const char* name);                      // and asked for, if so

  // Every argument has been asked for: throws ValueError if not. Python's lock is free while the result lives.
  [[nodiscard]] pybind11::gil_scoped_release release() {
    finish();
    return pybind11::gil_scoped_release();
  }
  void finish() const;

 private:
  template <class F>
  const char* each_size(const char* shape, const F& f) const;
  std::string wanted(const char* shape) const;
  std::int64_t place(const char* name);  // among the values
  PyObject* take(const char* name);
  void* pointer(const char* name, std::size_t alignment);

  const char* op_;
  PyObject* const* values_;
  std::int64_t positional_;
  PyObject* names_;                       // of those behind the positional ones; null: none
  std::int64_t next_ = 0;                 // place where the next argument is looked for first
  std::uint64_t taken_ = 0;               // by place
  std::array<std::int64_t, 26> sizes_{};  // of each letter, plus one; 0: not known yet
  TensorReader reader_;
};

// ---- how Python reaches one

void set_python_error() noexcept;  // of the exception that is being handled: the one table, in core.cpp

template <auto function>
struct Binding {
  static inline PyMethodDef method{nullptr, nullptr, METH_FASTCALL | METH_KEYWORDS, nullptr};

  static PyObject* call(PyObject*, PyObject* const* values, Py_ssize_t positional, PyObject* names) noexcept {
    try {
      Arguments given(method.ml_name, values, positional, names);
      if constexpr (std::is_void_v<decltype(function(given))>)
        function(given);
      else
        return pybind11::cast(function(given)).release().ptr();
      Py_RETURN_NONE;
    } catch (...) {
      set_python_error();
      return nullptr;
    }
  }
};

template <auto function>
void def(pybind11::module_& m, const char* name) {
  PyMethodDef& method = Binding<function>::method;
  method.ml_name = name;
  method.ml_meth = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&Binding<function>::call));
  m.attr(name) = pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&method, nullptr));
}

}  // namespace genrec::bindings
