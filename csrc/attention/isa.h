// One entry per instruction set that was built; each file is compiled with its own flags.
#pragma once
#include "attention/plan.h"

namespace shoal {

void attend_avx2(const Plan& plan, const ShoalAttention& call);
void attend_avx512(const Plan& plan, const ShoalAttention& call);
void attend_avx512_bf16(const Plan& plan, const ShoalAttention& call);
void attend_amx_bf16(const Plan& plan, const ShoalAttention& call);

}  // namespace shoal
