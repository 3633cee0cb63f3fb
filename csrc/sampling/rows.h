// The passes over a row of logits that choosing a token takes, compiled per instruction set.
//
// A token's depth is how far it lies below the row's largest logit, divided by the temperature and
// in powers of two: its weight is 2^-depth, the likeliest has depth 0. All instruction sets compute
// the same bits: they work on 16 lanes, and sum in the same order.
#pragma once
#include <cstdint>
#include <cstring>

namespace shoal {

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 1024;  // tokens whose weights are summed together
constexpr int kStep = 32;         // buckets per unit of depth
constexpr int kMostBuckets = 24 * kStep + 1;

struct Candidate {
  float depth, weight;
  int32_t id;
};

// depth = (peak - logit) * scale; deeper than `deepest` weighs nothing.
struct Depths {
  float peak, scale, deepest;
};

struct Buckets {
  int used;  // the last of these holds everything deeper
  int64_t count[kMostBuckets];
  double mass[kMostBuckets];
};

// The passes for one dtype of logits. No pass keeps anything.
struct Passes {
  // The logits, and -infinity where a token's bit is not set.
  void (*allow)(const void* logits, int64_t vocab, const uint32_t* allowed, float* out);
  // The largest logit; NaN if any is NaN. `maxima` may be null, else it takes the largest of each
  // of `maxima_count(vocab)` disjoint sets of the row's tokens.
  float (*peak)(const void* logits, int64_t vocab, float* maxima);
  // The first token whose logit is at least `value`, which must occur.
  int64_t (*first)(const void* logits, int64_t vocab, float value);
  // The sum of weights of each block of kBlock tokens.
  void (*sums)(const void* logits, int64_t vocab, const Depths& depths, double* sums);
  // Weights of tokens [begin, end), at most kBlock.
  void (*weights)(const void* logits, int64_t begin, int64_t end, const Depths& depths, float* out);
  // How many tokens there are in each of `used` buckets of depth, and their mass.
  void (*buckets)(const void* logits, int64_t vocab, const Depths& depths, int used, Buckets* out);
  // Tokens with low <= depth < high and a weight, by id; `out` must have room. Returns how many.
  int64_t (*collect)(const void* logits, int64_t vocab, const Depths& depths, float low, float high,
                     Candidate* out);
  // How many tokens have a logit of at least `value`. `out` may be null, else it takes them, by id;
  // it must have room.
  int64_t (*at_least)(const void* logits, int64_t vocab, float value, int32_t* out);
};

// A bfloat16 number.
static inline float widened(uint16_t number) {
  const uint32_t bits = uint32_t(number) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline int64_t maxima_count(int64_t vocab) { return (vocab + kBlock - 1) / kBlock * kLanes; }

extern const Passes passes_avx2[2], passes_avx512[2];  // by ShoalDtype

}  // namespace shoal
