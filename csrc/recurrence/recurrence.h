// The functions of recurrent layers, compiled once per instruction set.
#pragma once
#include "shoal_kernels.h"

namespace shoal {

struct Recurrences {
  void (*delta_rule)(const ShoalDeltaRule&);
  void (*state_space)(const ShoalStateSpace&);
  void (*convolution)(const ShoalConvolution&);
};

extern const Recurrences recurrences_avx2[2], recurrences_avx512[2];  // by ShoalDtype

}  // namespace shoal
