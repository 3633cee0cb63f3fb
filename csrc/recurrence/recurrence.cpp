// Chooses the instruction set's copy of a recurrence.
#include "recurrence/recurrence.h"

namespace {

template <class Call>
const shoal::Recurrences& recurrences_for(const Call* call) {
  return (call->isa >= SHOAL_AVX512 ? shoal::recurrences_avx512 : shoal::recurrences_avx2)[call->dtype];
}

}  // namespace

void shoal_delta_rule(const ShoalDeltaRule* call) { recurrences_for(call).delta_rule(*call); }
void shoal_state_space(const ShoalStateSpace* call) { recurrences_for(call).state_space(*call); }
void shoal_convolution(const ShoalConvolution* call) { recurrences_for(call).convolution(*call); }
