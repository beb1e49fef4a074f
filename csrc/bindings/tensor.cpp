#include "bindings/tensor.h"

#include <unordered_map>

#include "core/memory.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

// ---- dlpack.h 1.3, as far as it is used here; its layout is fixed for all versions 1.x

struct DlTensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t dims;
  Dtype dtype;
  std::int64_t *sizes, *strides;
  std::uint64_t byte_offset;
};

struct DlExchange {
  std::uint32_t major, minor;
  void* previous;
  void *allocate, *from_object, *to_object;
  int (*view)(void* object, DlTensor* out);  // 0, or -1 with Python's error set
};

// ---- what is found once and never changes

struct Torch {
  PyTypeObject *tensor = nullptr, *parameter = nullptr;
  const DlExchange* exchange = nullptr;            // null: this torch has none
  std::unordered_map<PyObject*, Dtype> dtypes;     // of torch's dtype objects, where there is no exchange
  PyObject *data_ptr, *stride, *is_neg, *is_conj;  // Tensor's own methods
  PyObject *dtype, *shape, *is_cpu;                // and getters: by name they would be looked up in every call
};
Torch torch;

Dtype named_dtype(const std::string& name, int item_size) {
  const auto bits = static_cast<std::uint8_t>(item_size * 8);
  if (name == "bool") return {6, 8};
  if (name == "bfloat16") return {4, 16};
  if (name.rfind("uint", 0) == 0) return {1, bits};
  if (name.rfind("int", 0) == 0) return {0, bits};
  if (name.rfind("complex", 0) == 0) return {5, bits};
  if (name == "float16" || name == "float32" || name == "float64") return {2, bits};
  return {255, bits};
}

// Where a tensor without elements lies: null is an argument that is None.
alignas(64) char nothing[64];

py::object owned(PyObject* found) {
  if (found == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(found);
}
py::object ask(PyObject* object, PyObject* method) { return owned(PyObject_Vectorcall(method, &object, 1, nullptr)); }
py::object get(PyObject* object, PyObject* getter) {
  return owned(Py_TYPE(getter)->tp_descr_get(getter, object, reinterpret_cast<PyObject*>(Py_TYPE(object))));
}

std::string device_of(PyObject* object) { return py::str(py::handle(object).attr("device")).cast<std::string>(); }

}  // namespace

void find_torch() {
  const py::module_ module = py::module_::import("torch");
  py::object tensor = module.attr("Tensor");
  torch.tensor = reinterpret_cast<PyTypeObject*>(tensor.inc_ref().ptr());
  const py::object parameter = module.attr("nn").attr("Parameter");
  torch.parameter = reinterpret_cast<PyTypeObject*>(parameter.inc_ref().ptr());
  const auto member = [&](const char* name) { return py::object(tensor.attr(name)).release().ptr(); };
  torch.data_ptr = member("data_ptr");
  torch.stride = member("stride");
  torch.is_neg = member("is_neg");
  torch.is_conj = member("is_conj");
  torch.dtype = member("dtype");
  torch.shape = member("shape");
  torch.is_cpu = member("is_cpu");
  const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
    const void* const found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
    const auto* const exchange = static_cast<const DlExchange*>(found);
    if (exchange->major == 1 && exchange->view != nullptr) torch.exchange = exchange;
  }
  if (torch.exchange != nullptr) return;
  const py::object kind = module.attr("dtype");
  for (const auto& [key, value] : module.attr("__dict__").cast<py::dict>())
    if (py::isinstance(value, kind))
      torch.dtypes.emplace(
          value.ptr(), named_dtype(py::str(value).cast<std::string>().substr(6), value.attr("itemsize").cast<int>()));
}

std::string Label::text() const {
  if (index < 0) return message(op, ": ", name);
  return of_level ? message(op, ": ", name, " of level ", index) : message(op, ": ", name, "[", index, "]");
}

std::int64_t Tensor::elements(int first) const {
  constexpr std::int64_t most = std::int64_t{1} << 47;  // what a process of 64 bits can address
  std::int64_t product = 1;
  for (int d = first; d < dims; ++d)
    if (sizes[d] == 0) return 0;
  for (int d = first; d < dims; ++d) {
    check(product <= most / sizes[d], "tensor: its dimensions must hold at most 2^47 elements, got ", text());
    product *= sizes[d];
  }
  return product;
}

bool Tensor::is_whole(int free) const {
  std::int64_t expected = 1;
  bool whole = true;
  for (int d = dims - 1; d >= 0; --d) {
    if (sizes[d] == 0) return true;
    whole = whole && (sizes[d] == 1 || (d < free ? strides[d] >= expected : strides[d] == expected));
    expected = sizes[d] == 1 || d >= free ? expected * sizes[d] : strides[d] * sizes[d];
  }
  return whole;
}

std::string Tensor::text() const {
  constexpr const char* kinds[] = {"int", "uint", "float", "?", "bfloat", "complex", "bool"};
  std::string out = dtype.code < 7 ? kinds[dtype.code] : "float";
  if (dtype.code != 6) out += std::to_string(dtype.bits);
  out += " [";
  for (int d = 0; d < dims; ++d) out += (d ? ", " : "") + std::to_string(sizes[d]);
  return out + "]";
}

Tensor TensorReader::by_attributes(PyObject* object) {
  Tensor out{};
  out.on_cpu = get(object, torch.is_cpu).ptr() == Py_True;
  out.data = PyLong_AsVoidPtr(ask(object, torch.data_ptr).ptr());
  out.dtype = torch.dtypes.at(get(object, torch.dtype).ptr());
  const py::object shape = get(object, torch.shape), stride = ask(object, torch.stride);
  out.dims = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  std::vector<std::int64_t>& numbers = sizes_.emplace_back();
  for (const py::object& tuple : {shape, stride})
    for (int d = 0; d < out.dims; ++d) numbers.push_back(PyLong_AsLongLong(PyTuple_GET_ITEM(tuple.ptr(), d)));
  if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  out.sizes = numbers.data();
  out.strides = numbers.data() + out.dims;
  return out;
}

Tensor TensorReader::look(PyObject* object) {
  if (torch.exchange == nullptr) return by_attributes(object);
  DlTensor read;
  if (torch.exchange->view(object, &read) != 0) throw py::error_already_set();
  return {read.data, read.dims, read.dtype, read.sizes, read.strides, read.device_type == 1};
}

// None: of another kind, sparse, quantized, nested, elsewhere, or without data.
std::optional<Tensor> TensorReader::look_at_dense(PyObject* object) {
  if (Py_TYPE(object) != torch.tensor && Py_TYPE(object) != torch.parameter) return std::nullopt;
  try {
    const Tensor found = look(object);
    const bool has_data = found.data != nullptr || found.elements() == 0;
    return found.on_cpu && has_data ? std::optional(found) : std::nullopt;
  } catch (py::error_already_set&) {
    return std::nullopt;
  }
}

std::optional<Bytes> TensorReader::bytes(PyObject* object) {
  const std::optional<Tensor> found = look_at_dense(object);
  const auto is = [&](PyObject* method) { return ask(object, method).ptr() == Py_True; };
  if (!found || !found->is_whole() || is(torch.is_neg)) return std::nullopt;
  if (found->dtype.code == 5 && is(torch.is_conj)) return std::nullopt;
  return Bytes{found->data, found->elements() * found->element_size()};
}

void TensorReader::fetch(PyObject* object) {
  if (Py_TYPE(object) != torch.tensor && Py_TYPE(object) != torch.parameter) return;
  // torch keeps the pointer to its own object in the first or second word behind the head. Wherever it points, a
  // prefetch harms nothing.
  const auto* const words = reinterpret_cast<char* const*>(object + 1);
  const auto size = static_cast<std::size_t>(torch.tensor->tp_basicsize);
  for (int w = 0; w < 2 && sizeof(PyObject) + (w + 1) * sizeof(void*) <= size; ++w)
    for (int line = 0; line < 4; ++line) fetch_ahead(words[w] + 64 * line);
}

bool TensorReader::is_float_matrix(PyObject* object) {
  const std::optional<Tensor> found = look_at_dense(object);
  if (!found || found->dims != 2) return false;
  return found->dtype == dtype_of<float>() || found->dtype == bfloat16 || found->dtype == float16;
}

Tensor TensorReader::view(const Label& label, PyObject* object) {
  if (!PyObject_TypeCheck(object, torch.tensor))
    throw TypeError(message(label.text(), " must be a tensor, got ", Py_TYPE(object)->tp_name));
  Tensor found{};
  try {
    found = look(object);
  } catch (py::error_already_set&) {
    if (device_of(object) == "cpu") throw;
  }
  // Texts are made where something is wrong alone.
  if (!found.on_cpu)
    throw ValueError(message(label.text(), " must be contiguous on the CPU, got a tensor on ", device_of(object)));
  if (found.data == nullptr) {
    check(found.elements() == 0, label.text(), " must have data, got ", found.text(), " whose storage was freed");
    found.data = nothing;
  }
  return found;
}

Tensor TensorReader::read(const Label& label, PyObject* object, Layout layout, std::int64_t alignment, int free) {
  Tensor found = view(label, object);
  const auto aligned = [&] {
    const std::int64_t wanted = alignment != 0          ? alignment
                                : found.dtype.code == 5 ? found.element_size() / 2
                                                        : found.element_size();
    return wanted == 0 || reinterpret_cast<std::uintptr_t>(found.data) % static_cast<std::uintptr_t>(wanted) == 0;
  };
  if (layout == Layout::copied) {
    py::handle held = object;
    const auto take = [&](const char* copy) {
      copies_.push_back(held.attr(copy)());
      held = copies_.back();
      found = view(label, held.ptr());
    };
    const bool has_sign = found.dtype.code != 1 && found.dtype.code != 6;
    if (has_sign && ask(object, torch.is_neg).ptr() == Py_True) take("resolve_neg");
    if (!found.is_whole(free)) take("contiguous");
    if (!aligned()) take("clone");
    return found;
  }
  if (!found.is_whole())
    throw ValueError(message(label.text(), " must be contiguous on the CPU, got strides ",
                             py::str(py::list(ask(object, torch.stride))).cast<std::string>()));
  if (!aligned())
    throw ValueError(
        message(label.text(), " must be aligned to its elements, got address ", found.data, ": pass a clone() of it"));
  return found;
}

}  // namespace genrec::bindings
