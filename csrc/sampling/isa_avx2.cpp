#include "sampling/passes.h"

namespace shoal {

const Passes passes_avx2[2] = {make_passes<float>(), make_passes<uint16_t>()};

}  // namespace shoal
