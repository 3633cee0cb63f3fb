// The C interface of segment attention.
#include "attention/isa.h"

void* shoal_attention_plan(const ShoalWork* work, const ShoalShape* shape) {
  return new shoal::Plan(shoal::make_plan(*work, *shape));
}

void shoal_attention_free(void* plan) { delete static_cast<shoal::Plan*>(plan); }

void shoal_attention_tasks(const void* plan, int64_t* tasks, int64_t* split) {
  auto& made = *static_cast<const shoal::Plan*>(plan);
  *tasks = made.tasks.size() * made.shape.kv_heads;
  *split = int64_t(made.parts) * made.shape.kv_heads;
}

void shoal_attention_run(const void* plan, const ShoalAttention* call) {
  auto& made = *static_cast<const shoal::Plan*>(plan);
  const ShoalShape& shape = made.shape;
  int32_t isa = shape.isa;
  // A tile of the matrix units is 32 deep. Processors that have them multiply pairs more slowly than
  // single float32 numbers (measured: docs/lab-notes.md).
  if (isa == SHOAL_AMX_BF16 && shape.key_dim % 32 != 0) isa = SHOAL_AVX512;
  if (isa >= SHOAL_AVX512_BF16 && shape.dtype == SHOAL_FLOAT32) isa = SHOAL_AVX512;
  switch (isa) {
    case SHOAL_AMX_BF16:
      return shoal::attend_amx_bf16(made, *call);
    case SHOAL_AVX512_BF16:
      return shoal::attend_avx512_bf16(made, *call);
    case SHOAL_AVX512:
      return shoal::attend_avx512(made, *call);
    default:
      return shoal::attend_avx2(made, *call);
  }
}
