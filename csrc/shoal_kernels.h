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

// The highest instruction set that this machine has, or SHOAL_NONE; and the fastest for bfloat16,
// which may be a lower one.
SHOAL_API int32_t shoal_highest_isa();
SHOAL_API int32_t shoal_fastest_isa();

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
  const int64_t* slots;  // [rows], block * SHOAL_BLOCK + offset
  const void *key, *value;
  int64_t key_head, key_row, value_head, value_row;      // strides
  void *keys, *values;                                   // the layer's pool; values null: keys alone
  int64_t keys_head, values_head;                        // elements per head of the pool
  int32_t threads;
};

// Writes rows into the pool. A row at the first slot of a block clears first what is multiplied as
// values, so that unused slots never hold infinities.
SHOAL_API void shoal_kv_store(const ShoalStore* store);

// Asks for huge pages for memory not yet touched: blocks lie all over the pool, and each small page
// costs a walk through the page table. Only a wish; nothing fails where there are none.
SHOAL_API void shoal_use_huge_pages(void* start, int64_t bytes);

// ---- Segment attention -----------------------------------------------------------------------

struct ShoalWork {
  int64_t rows, items;
  const int32_t *row_first, *row_last, *kv_tokens;  // [items]
  const int32_t* starts;                            // [items], position of the first token
  const uint8_t* causal;                            // [items]
  const int64_t* block_offsets;                     // [items + 1]
  const int32_t* blocks;
  const int64_t* positions;                         // [rows], where a row's window ends: itself, or its chunk's end
};

struct ShoalShape {
  int32_t dtype, isa;
  int32_t heads, kv_heads, key_dim, value_dim;
  int32_t threads;
  int32_t window;  // a row sees keys above positions[row] - window only; 0: all before it
};

struct ShoalAttention {
  const void* query;
  int64_t query_head, query_row;  // strides
  // values null: a key's first value_dim numbers are its value.
  const void *keys, *values;
  int64_t keys_head, values_head;  // elements per head of the pool
  float scale;                     // above 0
  float softcap;                   // scores become softcap * tanh(score / softcap); 0: as they are
  const float* sinks;              // [heads], one more score of each row; or null
  void* out;                       // [rows, heads, value_dim]
  int32_t out_dtype;               // the query's, or SHOAL_FLOAT32
  float* lse;                      // [rows, heads], sinks included, natural logarithm; or null
};

// Divides a token batch into tasks. The arrays of `work` are copied. Never null.
SHOAL_API void* shoal_attention_plan(const ShoalWork* work, const ShoalShape* shape);
SHOAL_API void shoal_attention_free(void* plan);
// Number of tasks, and how many of them are parts of a split row tile (for tests).
SHOAL_API void shoal_attention_tasks(const void* plan, int64_t* tasks, int64_t* split);
SHOAL_API void shoal_attention_run(const void* plan, const ShoalAttention* call);

// ---- Sampling --------------------------------------------------------------------------------
// A token for each row of logits. A row's token is a function of its own logits and columns, the
// same for every instruction set, number of threads and company of rows; and the same for float32
// and bfloat16 logits of equal value.

struct ShoalSample {
  int32_t dtype, isa, threads;
  int64_t rows, vocab;
  const void* const* logits;  // [rows] addresses of [vocab] logits
  // Columns [rows]:
  const float* temperature;   // 0: the largest logit, of equals the lowest id
  const float* min_p;         // 0 keeps all
  const int64_t* top_k;       // at least 1; vocab keeps all
  const double* top_p;        // above 0; 1 keeps all
  const double* uniform;      // between 0 and 1, exclusive
  // [rows, (vocab + 31) / 32] a bit per token that may be chosen, lowest first; null: every token.
  // The others count as logits of -infinity.
  const uint32_t* allowed;
  int32_t* tokens;            // out; -1 where a logit is NaN or the largest is not finite
};

SHOAL_API void shoal_sample(const ShoalSample* call);

// What rows of logits say of tokens: natural logarithms of their probabilities, from the logits as
// they are. Of a row that has NaN, or whose largest logit is not finite, the logprobs are NaN.
struct ShoalLogprobs {
  int32_t dtype, isa, threads;
  int64_t rows, vocab;
  const void* const* logits;  // [rows] addresses of [vocab] logits
  const int64_t* offsets;     // [rows + 1], which of the targets are a row's
  const int32_t* targets;     // [offsets[rows]] tokens
  const int64_t* nums;        // [rows], how many of the likeliest tokens are listed; at most vocab
  int64_t most;               // columns of the lists, at least the largest of `nums`
  float* logprob;             // out, of each target
  int32_t* rank;              // out, of each target: how many tokens have as large a logit
  int32_t* best;              // out, [rows, most]: the likeliest first, of equals the lowest id
  float* best_logprob;        // out, [rows, most]; what is beyond `nums` stays as it is
  double* normalizer;         // out, [rows]: a token's logprob is its logit less this
};

SHOAL_API void shoal_logprobs(const ShoalLogprobs* call);

// ---- Between a layer's matrix products -------------------------------------------------------
// Numbers are read as float32 and rounded once, when written.

enum ShoalActivation : int32_t { SHOAL_SILU = 0, SHOAL_GELU_TANH = 1 };

struct ShoalRmsNorm {
  int32_t dtype, isa, threads;
  int64_t rows, width;
  const void* x;
  int64_t x_row;       // stride
  const void* weight;  // [width]
  float offset;        // added to the weight
  float eps;
  void* out;           // [rows, width]
};

// out = x / sqrt(mean(x^2) + eps) * (offset + weight)
SHOAL_API void shoal_rms_norm(const ShoalRmsNorm* call);

struct ShoalGated {
  int32_t dtype, isa, threads, activation;
  int64_t rows, width;
  const void* in;  // [rows, 2 * width]: gate, then up
  int64_t in_row;  // stride
  void* out;       // [rows, width]
};

// out = activation(gate) * up
SHOAL_API void shoal_gated(const ShoalGated* call);

struct ShoalQuantize {
  int32_t dtype, isa, threads;
  int64_t rows, width;
  const void* x;
  int64_t x_row;   // stride
  uint8_t* out;    // [rows, width]
  float* scales;   // out, [rows]
};

// x = scales * (out - 128), nearly: 8 bits on both sides of 0, up to the largest number of each row.
// The scale of a row with a number that is not finite is NaN.
SHOAL_API void shoal_quantize(const ShoalQuantize* call);

struct ShoalRotary {
  int32_t dtype, isa, threads;
  int32_t heads, kv_heads, key_dim, value_dim;
  int32_t rotary_dim;  // the first so many of a head are rotated; even, 0 for none
  int32_t neighbours;  // 1: number 2i is rotated with 2i + 1; 0: i with i + rotary_dim / 2
  int64_t rows;
  void* qkv;           // [rows][heads of queries, of keys, of values]
  int64_t qkv_row;     // stride
  const float* wide;   // the same, dense, to be rounded into qkv first; null: qkv holds it
  const void *cos, *sin;               // [rows, rotary_dim]
  int64_t angle_row;                   // stride
  const void *query_norm, *key_norm;   // [key_dim] weights of an RMSNorm of each head, or null
  float offset, eps;                   // of these norms
  const int64_t* slots;                // as in ShoalStore
  void *keys, *values;                 // the layer's pool, or null: nothing is stored
  int64_t keys_head, values_head;      // elements per head of the pool
};

// Norms and rotates queries and keys in qkv, then writes keys and values into the pool as
// shoal_kv_store does.
SHOAL_API void shoal_rotary(const ShoalRotary* call);

// ---- LoRA adapters ---------------------------------------------------------------------------
// A product's rows come in slices, each of one adapter; a product is that of one or several linear
// layers side by side.

// Outputs of a panel of B.
constexpr int32_t SHOAL_LORA_PANEL = 64;

// An adapter's part in one linear layer, in float32 or bfloat16.
struct ShoalLoraMatrices {
  const void* a;  // [rank, inputs]
  const void* b;  // [outputs / panel][rank][panel], the last panel as wide as what is left
  float scale;
  int32_t rank;   // 0: it has no part
  int32_t dtype;
};

struct ShoalLora {
  int32_t dtype, out_dtype, isa, threads;
  int64_t rows, inputs;
  int64_t first_row;               // of the batch, that the first row here is
  const void* x;                   // [rows, inputs]
  int64_t x_row;                   // stride
  void* out;                       // [rows, outputs of all]
  int64_t out_row;                 // stride
  int64_t slices;
  const int64_t *begin, *end;      // [slices], rows of the batch; slices do not overlap
  const int32_t* adapter;          // [slices]
  int64_t linears;
  const int64_t *columns, *outputs;  // [linears], where their outputs begin, and how many they are
  const ShoalLoraMatrices* matrices; // [adapters][linears]
  int64_t adapter_stride;
};

// out += scale * (x A^T) B^T, of each slice's rows and each linear layer, rounded once.
SHOAL_API void shoal_lora(const ShoalLora* call);

// ---- Layers with a recurrent state -----------------------------------------------------------
// Sequences go on in chunks of rows that follow each other. A chunk starts from the state of one slot
// and writes its last into another, or the same. States are float32, but for those of convolutions.

struct ShoalChunks {
  int64_t chunks, levels;
  const int64_t* row_first;       // [chunks + 1]
  const int64_t *source, *target; // [chunks], slots
  const int64_t* order;           // [chunks], level by level: what starts from a state written here is in a later one
  const int64_t* level_first;     // [levels + 1], of `order`
};

struct ShoalDeltaRule {
  int32_t dtype, isa, threads;
  int32_t heads, key_heads;  // several heads in a row share a key and a query
  int32_t key_dim, value_dim;
  int32_t normalize;         // 1: queries and keys are divided by their length first
  int32_t keep_dim;          // 1, or key_dim: each number of a key has its own decay
  const ShoalChunks* chunks;
  const void *query, *key, *value;            // [rows, heads, dim], dense but for their rows
  int64_t query_row, key_row, value_row;      // strides
  const float* keep;                          // [rows, heads, keep_dim], what is kept of the state
  const float* beta;                          // [rows, heads]
  float* states;                              // [slots, heads, key_dim, value_dim]
  void* out;                                  // [rows, heads, value_dim]
};

// The gated delta rule (Yang et al., 2024, equation 10), row by row: S = keep * S,
// S += key (beta (value - key S)), out = query S / sqrt(key_dim).
SHOAL_API void shoal_delta_rule(const ShoalDeltaRule* call);

struct ShoalStateSpace {
  int32_t dtype, isa, threads;
  int32_t heads, groups;     // heads / groups heads in a row share B and C
  int32_t dim, state_dim;
  const ShoalChunks* chunks;
  const void *x, *b, *c;         // [rows, heads, dim], [rows, groups, state_dim] twice
  int64_t x_row, b_row, c_row;   // strides
  const float *time, *keep;      // [rows, heads]: dt, and exp(dt A)
  const float* skip;             // [heads], D
  float* states;                 // [slots, heads, dim, state_dim]
  void* out;                     // [rows, heads, dim]
};

// Mamba-2's recurrence (Dao and Gu, 2024, section 3), row by row: S = keep * S + time * x B^T,
// out = S C + skip * x.
SHOAL_API void shoal_state_space(const ShoalStateSpace* call);

struct ShoalConvolution {
  int32_t dtype, isa, threads;
  int32_t activation;  // a ShoalActivation, or -1 for none
  int32_t earlier;     // rows read before each
  int64_t channels;
  const ShoalChunks* chunks;
  const void* x;         // [rows, channels]
  int64_t x_row;         // stride
  const float* weight;   // [earlier + 1, channels], the last for the row itself
  const float* bias;     // [channels], or null
  void* states;          // [slots, earlier, channels]
  void* out;             // [rows, channels]
};

// A causal convolution of each channel, then the activation.
SHOAL_API void shoal_convolution(const ShoalConvolution* call);
