#include "lora/grouped.h"

namespace shoal {

const LoraRun lora_avx2 = add_adapters;

}  // namespace shoal
