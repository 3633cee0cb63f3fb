// Chooses the instruction set's copy.
#include "lora/lora.h"

void shoal_lora(const ShoalLora* call) {
  if (call->isa >= SHOAL_AVX512_BF16) return shoal::lora_avx512_bf16(*call);
  (call->isa == SHOAL_AVX512 ? shoal::lora_avx512 : shoal::lora_avx2)(*call);
}
