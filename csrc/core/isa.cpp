#include "core/isa.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "core/check.h"

#if defined(_MSC_VER) && defined(_M_X64)
#include <immintrin.h>
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace genrec {
namespace {

// Own CPUID + XGETBV probe: __builtin_cpu_supports() is silently 0 under zig c++ and absent in MSVC.
#if defined(__x86_64__) || defined(_M_X64)
struct Registers {
  std::uint32_t a = 0, b = 0, c = 0, d = 0;
};

bool cpuid(std::uint32_t leaf, std::uint32_t subleaf, Registers& r) {
#if defined(_MSC_VER)
  int out[4];
  __cpuid(out, 0);
  if (leaf > static_cast<std::uint32_t>(out[0])) return false;
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<std::uint32_t>(out[0]), static_cast<std::uint32_t>(out[1]), static_cast<std::uint32_t>(out[2]),
       static_cast<std::uint32_t>(out[3])};
  return true;
#else
  return __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d) != 0;
#endif
}

std::uint64_t saved_registers() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (static_cast<std::uint64_t>(hi) << 32) | lo;
#endif
}

Isa probe() {
  auto bit = [](std::uint32_t word, int n) { return (word >> n & 1u) != 0; };
  Registers r1, r7;
  if (!cpuid(1, 0, r1) || !bit(r1.c, 27)) return Isa::base;  // OSXSAVE: xgetbv may be executed
  const std::uint64_t saved = saved_registers();
  const bool ymm = (saved & 0x06) == 0x06, zmm = (saved & 0xe6) == 0xe6;  // the OS keeps these registers
  if (!ymm || !cpuid(7, 0, r7)) return Isa::base;
  const bool avx2 = bit(r1.c, 12) && bit(r1.c, 29) && bit(r1.c, 23) && bit(r7.b, 3) && bit(r7.b, 5) &&
                    bit(r7.b, 8);  // FMA F16C POPCNT BMI AVX2 BMI2
  if (!avx2) return Isa::base;
  const bool avx512 = zmm && bit(r7.b, 16) && bit(r7.b, 17) && bit(r7.b, 30) && bit(r7.b, 31);  // F DQ BW VL
  if (!avx512) return Isa::avx2;
  Registers r71;
  const bool vnni = bit(r7.c, 11);  // no processor has the one without the other
  return vnni && r7.a >= 1 && cpuid(7, 1, r71) && bit(r71.a, 5) ? Isa::avx512_bf16 : Isa::avx512;
}
#else
Isa probe() { return Isa::base; }
#endif

Isa best() {
#if defined(GENREC_HAVE_avx512_bf16)
  static const Isa found = probe();
  return found;
#else
  return Isa::base;
#endif
}

Isa resolve(const std::string& name) {
  if (name.empty()) return best();
  for (Isa isa : usable_isas())
    if (name == isa_name(isa)) return isa;
  std::string usable;
  for (Isa isa : usable_isas()) usable += std::string(usable.empty() ? "" : ", ") + isa_name(isa);
  throw UnsupportedError(
      message("GENREC_FAST_ISA: must name an instruction set of this CPU and build (", usable, "), got ", name));
}

std::atomic<int> chosen{-1};

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::avx512:
      return "avx512";
    case Isa::avx2:
      return "avx2";
    default:
      return "base";
  }
}

std::vector<Isa> usable_isas() {
  std::vector<Isa> isas{Isa::base};
  if (best() >= Isa::avx2) isas.push_back(Isa::avx2);
  if (best() >= Isa::avx512) isas.push_back(Isa::avx512);
  if (best() >= Isa::avx512_bf16) isas.push_back(Isa::avx512_bf16);
  return isas;
}

Isa active_isa() {
  int isa = chosen.load(std::memory_order_relaxed);
  if (isa < 0) [[unlikely]] {
    const char* wanted = std::getenv("GENREC_FAST_ISA");
    return select_isa(wanted ? wanted : "");
  }
  return static_cast<Isa>(isa);
}

Isa select_isa(const std::string& name) {
  const Isa isa = resolve(name);
  chosen.store(static_cast<int>(isa), std::memory_order_relaxed);
  return isa;
}

}  // namespace genrec
