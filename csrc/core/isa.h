// Which instruction set this process uses: probed once, overridden by GENREC_FAST_ISA or select_isa().
#pragma once
#include <string>
#include <vector>

namespace genrec {

enum class Isa { base, avx2, avx512, avx512_bf16 };

const char* isa_name(Isa isa);
// The instruction set in use. Throws UnsupportedError when GENREC_FAST_ISA names one this CPU or build lacks.
Isa active_isa();
// Overrides the choice; "" returns to the probe's. Throws UnsupportedError as above.
Isa select_isa(const std::string& name);
// What this build carries and this CPU runs, weakest first.
std::vector<Isa> usable_isas();

}  // namespace genrec

// Declares one kernel entry in each compiled instruction set's namespace: GENREC_PER_ISA(void f(int x);)
#define GENREC_PER_ISA(...)       \
  namespace genrec::base {        \
  __VA_ARGS__                     \
  }                               \
  namespace genrec::avx2 {        \
  __VA_ARGS__                     \
  }                               \
  namespace genrec::avx512 {      \
  __VA_ARGS__                     \
  }                               \
  namespace genrec::avx512_bf16 { \
  __VA_ARGS__                     \
  }

// Calls the active instruction set's copy: GENREC_DISPATCH(f(x)).
#if defined(GENREC_HAVE_avx512_bf16)
#define GENREC_DISPATCH(...)                     \
  [&] {                                          \
    switch (genrec::active_isa()) {              \
      case genrec::Isa::avx512_bf16:             \
        return genrec::avx512_bf16::__VA_ARGS__; \
      case genrec::Isa::avx512:                  \
        return genrec::avx512::__VA_ARGS__;      \
      case genrec::Isa::avx2:                    \
        return genrec::avx2::__VA_ARGS__;        \
      default:                                   \
        return genrec::base::__VA_ARGS__;        \
    }                                            \
  }()
#else
#define GENREC_DISPATCH(...) genrec::base::__VA_ARGS__
#endif
