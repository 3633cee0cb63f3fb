// What adapters add to a product, compiled once per instruction set.
#pragma once
#include "shoal_kernels.h"

namespace shoal {

using LoraRun = void (*)(const ShoalLora&);

extern const LoraRun lora_avx2, lora_avx512, lora_avx512_bf16;

}  // namespace shoal
