// The module's table of contents and the one place where C++ exceptions become Python's.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <new>
#include <stdexcept>

#include "bindings/arguments.h"
#include "bindings/bindings.h"
#include "core/check.h"
#include "core/isa.h"
#include "core/memory.h"

namespace py = pybind11;

namespace {

void raise_as(const char* name, const std::exception& error) {
  const py::object type = py::module_::import("genrec_fast.errors").attr(name);
  PyErr_SetString(type.ptr(), error.what());
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of genrec_fast: raw pointers and sizes in, nothing kept.";
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const genrec::ValueError& error) {
      raise_as("InvalidValueError", error);
    } catch (const genrec::UnsupportedError& error) {
      raise_as("UnsupportedError", error);
    } catch (const genrec::bindings::TypeError& error) {
      raise_as("InvalidTypeError", error);
    } catch (const std::bad_alloc&) {
      raise_as("UnsupportedError", std::runtime_error("memory: the kernel needs more of it than there is"));
    } catch (const std::length_error&) {
      raise_as("UnsupportedError", std::runtime_error("memory: the kernel needs more of it than any machine has"));
    }
  });
  m.def("active_isa", [] { return genrec::isa_name(genrec::active_isa()); });
  m.def(
      "select_isa", [](const std::string& name) { return genrec::isa_name(genrec::select_isa(name)); },
      py::arg("name"));
  m.def("usable_isas", [] {
    std::vector<std::string> names;
    for (genrec::Isa isa : genrec::usable_isas()) names.emplace_back(genrec::isa_name(isa));
    return names;
  });
  m.def(
      "ask_huge_pages",
      [](std::uintptr_t data, std::int64_t bytes) {
        genrec::ask_huge_pages(genrec::bindings::as_pointer<void>(data), bytes);
      },
      py::arg("data"), py::arg("bytes"));
  genrec::bindings::register_fingerprint(m);
  genrec::bindings::register_gemm(m);
  genrec::bindings::register_jagged_attention(m);
  genrec::bindings::register_jagged_pack(m);
  genrec::bindings::register_kmeans_step(m);
  genrec::bindings::register_rq_decode(m);
  genrec::bindings::register_rq_encode(m);
  genrec::bindings::register_topk_inner_product(m);
  genrec::bindings::register_transformer(m);
  genrec::bindings::register_transformer_search(m);
  genrec::bindings::register_trie_build(m);
  genrec::bindings::register_trie_filter(m);
  genrec::bindings::register_trie_lookup(m);
  genrec::bindings::register_trie_step(m);
}
