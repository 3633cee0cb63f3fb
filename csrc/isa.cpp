// Which instruction sets this machine has, asked at run time.
#include <sys/syscall.h>
#include <unistd.h>

#include "shoal_kernels.h"

namespace {

// The kernel lets a process use AMX's tiles once it has asked (Linux, Documentation/arch/x86/xstate.rst).
bool amx_permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

int32_t highest() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return SHOAL_NONE;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return SHOAL_AVX2;
  if (!__builtin_cpu_supports("avx512bf16")) return SHOAL_AVX512;
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((d & kAmxBf16) && (d & kAmxTile) && amx_permitted()) return SHOAL_AMX_BF16;
  return SHOAL_AVX512_BF16;
}

// Intel's cores with AVX512-BF16 multiply pairs at half the rate of single float32 numbers; with AMX
// they need not, and AMD's multiply them at twice that rate (measured: docs/lab-notes.md).
int32_t fastest(int32_t isa) {
  return isa == SHOAL_AVX512_BF16 && __builtin_cpu_is("intel") ? SHOAL_AVX512 : isa;
}

}  // namespace

int32_t shoal_abi_version() { return 10; }

int32_t shoal_highest_isa() {
  static const int32_t isa = highest();
  return isa;
}

int32_t shoal_fastest_isa() { return fastest(shoal_highest_isa()); }
