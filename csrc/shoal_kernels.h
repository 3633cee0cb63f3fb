// C interface of Shoal's CPU kernels. No framework: raw pointers, sizes and strides.
//
// Parallel regions are OpenMP's, so that a process that already has a pool of OpenMP threads
// (torch's) is not given a second one. Strides count elements unless said otherwise.
#pragma once
#include <cstdint>

#define SHOAL_API extern "C" __attribute__((visibility("default")))

enum ShoalDtype : int32_t { SHOAL_FLOAT32 = 0, SHOAL_BFLOAT16 = 1 };

// Instruction sets, each a superset of those before it.
enum ShoalIsa : int32_t {
  SHOAL_NONE = -1,
  SHOAL_AVX2 = 0,
  SHOAL_AVX512 = 1,
  SHOAL_AVX512_BF16 = 2,
  SHOAL_AMX_BF16 = 3,
};

// Tokens of a block of the KV pool: the tile of keys every kernel works on.
constexpr int32_t SHOAL_BLOCK = 32;

SHOAL_API int32_t shoal_abi_version();

// The best instruction set of this machine that was built, or SHOAL_NONE.
SHOAL_API int32_t shoal_best_isa();

// ---- The KV pool -----------------------------------------------------------------------------
// One layer's keys are [kv_heads][blocks][block], a block being SHOAL_BLOCK tokens laid out as dot
// products want them: with pack = 2 for bfloat16 and 1 for float32,
//   keys    [dim / pack][SHOAL_BLOCK tokens][pack]     (pairs along the head)
//   values  [SHOAL_BLOCK / pack][dim][pack]            (pairs of tokens)
// Kernels may read up to 64 bytes past the last block.

struct ShoalStore {
  int32_t dtype;
  int32_t kv_heads, key_dim, value_dim;
  int64_t rows;
  const int64_t* slots;  // [rows], block * SHOAL_BLOCK + place
  const void *key, *value;
  int64_t key_head, key_row, value_head, value_row;      // strides
  void *keys, *values;                                   // the layer's pool
  int64_t keys_head, values_head;                        // elements per head of the pool
  int32_t threads;
};

// Writes rows into the pool. A row at the first place of a block clears the block's values first,
// so that unused places never hold infinities.
SHOAL_API void shoal_kv_store(const ShoalStore* store);

// ---- Segment attention -----------------------------------------------------------------------

struct ShoalWork {
  int64_t rows, items;
  const int32_t *row_first, *row_last, *kv_tokens;  // [items]
  const uint8_t* causal;                            // [items]
  const int64_t* block_offsets;                     // [items + 1]
  const int32_t* blocks;
};

struct ShoalShape {
  int32_t dtype, isa;
  int32_t heads, kv_heads, key_dim, value_dim;
  int32_t threads;
};

struct ShoalAttention {
  const void* query;
  int64_t query_head, query_row;  // strides
  const void *keys, *values;
  int64_t keys_head, values_head;  // elements per head of the pool
  float scale;                     // above 0
  void* out;                       // [rows, heads, value_dim], in the query's dtype
};

// Divides a token batch into tasks. The arrays of `work` are copied. Never null.
SHOAL_API void* shoal_attention_plan(const ShoalWork* work, const ShoalShape* shape);
SHOAL_API void shoal_attention_free(void* plan);
// Number of tasks, and how many of them are parts of a split row tile (for tests).
SHOAL_API void shoal_attention_tasks(const void* plan, int64_t* tasks, int64_t* split);
SHOAL_API void shoal_attention_run(const void* plan, const ShoalAttention* call);
