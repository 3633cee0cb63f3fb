// Choosing tokens: the C interface, and the rows that need no ranking.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "sampling/ranked.h"
#include "shoal_kernels.h"

namespace shoal {
namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr float kDeepest = 125;  // 2^-125 is the least weight told from zero

// The first token where the running sum of weights reaches its target, tokens in order of id.
int32_t draw_plain(const Passes& passes, const void* logits, int64_t vocab, const Depths& depths,
                   double uniform, Scratch& scratch) {
  int64_t blocks = (vocab + kBlock - 1) / kBlock;
  scratch.sums.resize(blocks);
  passes.sums(logits, vocab, depths, scratch.sums.data());
  double total = 0, running = 0;
  for (double sum : scratch.sums) total += sum;
  const double target = uniform * total;
  int64_t block = 0;
  while (running + scratch.sums[block] < target) running += scratch.sums[block++];
  float weight[kBlock];
  int64_t begin = block * kBlock, end = std::min(begin + kBlock, vocab), found = begin;
  passes.weights(logits, begin, end, depths, weight);
  for (int64_t token = begin; token < end; token++) {
    if (weight[token - begin] == 0) continue;
    found = token;
    running += weight[token - begin];
    if (running >= target) break;
  }
  return int32_t(found);
}

int32_t choose(const Passes& passes, const ShoalSample& call, int64_t row, const void* logits,
               Scratch& scratch) {
  const float temperature = call.temperature[row], min_p = call.min_p[row];
  const int64_t vocab = call.vocab, top_k = call.top_k[row];
  // Worth it while few of the row's tokens are as likely as the k-th set's maximum.
  const bool short_list = temperature > 0 && top_k <= maxima_count(vocab) / 2;
  if (short_list) scratch.maxima.resize(maxima_count(vocab));
  const float peak = passes.peak(logits, vocab, short_list ? scratch.maxima.data() : nullptr);
  if (!std::isfinite(peak)) return -1;
  if (temperature == 0) return int32_t(passes.first(logits, vocab, peak));
  Depths depths;
  depths.peak = peak;
  // Finite, so that the likeliest token has depth 0 at any temperature.
  depths.scale = float(std::min(kLog2E / temperature, double(FLT_MAX)));
  depths.deepest = min_p > 0 ? std::min(kDeepest, -std::log2(min_p)) : kDeepest;
  if (top_k >= vocab && call.top_p[row] >= 1)
    return draw_plain(passes, logits, vocab, depths, call.uniform[row], scratch);
  return draw_ranked(passes, logits, vocab, depths, short_list ? scratch.maxima.data() : nullptr,
                     top_k, call.top_p[row], call.uniform[row], scratch);
}

// As `choose`, of the tokens that are allowed: written out once, a row stays in the cache.
int32_t choose_allowed(const Passes* passes, const ShoalSample& call, int64_t row,
                       Scratch& scratch) {
  const int64_t words = (call.vocab + 31) / 32;
  scratch.logits.resize(call.vocab);
  passes[call.dtype].allow(call.logits[row], call.vocab, call.allowed + row * words,
                           scratch.logits.data());
  return choose(passes[SHOAL_FLOAT32], call, row, scratch.logits.data(), scratch);
}

}  // namespace
}  // namespace shoal

void shoal_sample(const ShoalSample* call) {
  using namespace shoal;
  const Passes* passes = call->isa >= SHOAL_AVX512 ? passes_avx512 : passes_avx2;
#pragma omp parallel num_threads(call->threads) if (call->rows > 1)
  {
    Scratch scratch;
#pragma omp for schedule(dynamic)
    for (int64_t row = 0; row < call->rows; row++)
      call->tokens[row] =
          call->allowed ? choose_allowed(passes, *call, row, scratch)
                        : choose(passes[call->dtype], *call, row, call->logits[row], scratch);
  }
}
