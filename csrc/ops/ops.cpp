// Chooses the instruction set's copy of an op.
#include "ops/ops.h"

namespace {

template <class Call>
const shoal::Ops& ops_for(const Call* call) {
  return (call->isa >= SHOAL_AVX512 ? shoal::ops_avx512 : shoal::ops_avx2)[call->dtype];
}

}  // namespace

void shoal_rms_norm(const ShoalRmsNorm* call) { ops_for(call).rms_norm(*call); }
void shoal_gated(const ShoalGated* call) { ops_for(call).gated(*call); }
void shoal_rotary(const ShoalRotary* call) { ops_for(call).rotary(*call); }
void shoal_quantize(const ShoalQuantize* call) { ops_for(call).quantize(*call); }
