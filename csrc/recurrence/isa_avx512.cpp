#include "recurrence/all.h"

namespace shoal {

const Recurrences recurrences_avx512[2] = {make_recurrences<float>(), make_recurrences<uint16_t>()};

}  // namespace shoal
