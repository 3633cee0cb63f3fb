// The ops between a layer's matrix products, compiled once per instruction set.
#pragma once
#include "shoal_kernels.h"

namespace shoal {

struct Ops {
  void (*rms_norm)(const ShoalRmsNorm&);
  void (*gated)(const ShoalGated&);
  void (*rotary)(const ShoalRotary&);
  void (*quantize)(const ShoalQuantize&);
};

extern const Ops ops_avx2[2], ops_avx512[2];  // by ShoalDtype

}  // namespace shoal
