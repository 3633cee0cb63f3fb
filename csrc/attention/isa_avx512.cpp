#include "attention/isa.h"
#include "attention/kernel.h"
#include "attention/units_vector.h"

namespace shoal {

void attend_avx512(const Plan& plan, const ShoalAttention& call) {
  if (plan.shape.dtype == SHOAL_FLOAT32)
    Kernel<VectorUnit<SinglesByFma>>(plan, call).run();
  else
    Kernel<VectorUnit<PairsByFma>>(plan, call).run();
}

}  // namespace shoal
