#include "ops/rotary.h"

namespace shoal {

const Ops ops_avx512[2] = {make_ops<float>(), make_ops<uint16_t>()};

}  // namespace shoal
