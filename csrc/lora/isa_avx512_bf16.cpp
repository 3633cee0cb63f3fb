#include "lora/grouped.h"

namespace shoal {

const LoraRun lora_avx512_bf16 = add_adapters;

}  // namespace shoal
