#include "attention/isa.h"
#include "attention/kernel.h"
#include "attention/unit_amx.h"

namespace shoal {

void attend_amx_bf16(const Plan& plan, const ShoalAttention& call) {
  Kernel<AmxUnit>(plan, call).run();
}

}  // namespace shoal
