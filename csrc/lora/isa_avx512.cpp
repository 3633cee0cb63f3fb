#include "lora/grouped.h"

namespace shoal {

const LoraRun lora_avx512 = add_adapters;

}  // namespace shoal
