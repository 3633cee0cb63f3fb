#include "attention/isa.h"
#include "attention/kernel.h"
#include "attention/units_vector.h"

namespace shoal {

void attend_avx512_bf16(const Plan& plan, const ShoalAttention& call) {
  Kernel<VectorUnit<PairsByDotProduct>>(plan, call).run();
}

}  // namespace shoal
