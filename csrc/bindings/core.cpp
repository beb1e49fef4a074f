// The module's table of contents and the one place where C++ exceptions become Python's.
#include <pybind11/stl.h>

#include <new>
#include <stdexcept>

#include "bindings/bindings.h"
#include "core/isa.h"
#include "core/memory.h"

namespace py = pybind11;

namespace genrec::bindings {
namespace {

void raise_as(const char* name, const char* text) {
  PyObject* const module = PyImport_ImportModule("genrec_fast.base.errors");
  PyObject* const type = module != nullptr ? PyObject_GetAttrString(module, name) : nullptr;
  if (type != nullptr) PyErr_SetString(type, text);
  Py_XDECREF(type);
  Py_XDECREF(module);
}

}  // namespace

void set_python_error() noexcept {
  try {
    throw;
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const ValueError& error) {
    raise_as("InvalidValueError", error.what());
  } catch (const UnsupportedError& error) {
    raise_as("UnsupportedError", error.what());
  } catch (const TypeError& error) {
    raise_as("InvalidTypeError", error.what());
  } catch (const std::bad_alloc&) {
    raise_as("UnsupportedError", "memory: the kernel needs more of it than there is");
  } catch (const std::length_error&) {
    raise_as("UnsupportedError", "memory: the kernel needs more of it than any machine has");
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
}

}  // namespace genrec::bindings

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace genrec::bindings;
  m.doc() = "Compiled kernels of genrec_fast: tensors and numbers in, nothing kept.";
  find_torch();
  def<[](Arguments& given) {
    given.finish();
    return genrec::isa_name(genrec::active_isa());
  }>(m, "active_isa");
  def<[](Arguments& given) { return genrec::isa_name(genrec::select_isa(given.text("name"))); }>(m, "select_isa");
  def<[](Arguments& given) {
    given.finish();
    std::vector<std::string> names;
    for (const genrec::Isa isa : genrec::usable_isas()) names.emplace_back(genrec::isa_name(isa));
    return names;
  }>(m, "usable_isas");
  def<[](Arguments& given) {
    const Tensor data = given.tensor("data", any_dtype, "...", Layout::whole);
    genrec::ask_huge_pages(data.data, data.elements() * data.element_size());
  }>(m, "ask_huge_pages");
  def<[](Arguments& given) { return given.is_float_matrix("value"); }>(m, "is_float_matrix");
  register_code_sums(m);
  register_draft(m);
  register_expand_rows(m);
  register_fingerprint(m);
  register_gemm(m);
  register_jagged_attention(m);
  register_jagged_pack(m);
  register_kmeans_step(m);
  register_rq_decode(m);
  register_rq_encode(m);
  register_topk_inner_product(m);
  register_transformer(m);
  register_transformer_best_first(m);
  register_transformer_search(m);
  register_trie_build(m);
  register_trie_filter(m);
  register_trie_lookup(m);
  register_trie_places(m);
  register_trie_step(m);
}
