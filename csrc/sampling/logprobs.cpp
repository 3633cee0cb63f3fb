// Log-probabilities of tokens, their ranks, and the likeliest tokens of a row.
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "sampling/rows.h"
#include "shoal_kernels.h"

namespace shoal {
namespace {

constexpr float kDeepest = 125;  // 2^-125 is the least weight told from zero
constexpr int64_t kCounted = 8;  // of more tokens in a row the ranks are looked up in its order

struct Buffers {
  std::vector<float> maxima, values;
  std::vector<double> sums;
  std::vector<int32_t> ids;
};

float value_of(const ShoalLogprobs& call, const void* logits, int64_t token) {
  if (call.dtype == SHOAL_FLOAT32) return static_cast<const float*>(logits)[token];
  return widened(static_cast<const uint16_t*>(logits)[token]);
}

void copy_values(const ShoalLogprobs& call, const void* logits, std::vector<float>& out) {
  out.resize(call.vocab);
  for (int64_t i = 0; i < call.vocab; i++) out[i] = value_of(call, logits, i);
}

double normalizer(const Passes& passes, const ShoalLogprobs& call, const void* logits, float peak,
                  Buffers& buffers) {
  buffers.sums.resize((call.vocab + kBlock - 1) / kBlock);
  const Depths depths{peak, float(M_LOG2E), kDeepest};
  passes.sums(logits, call.vocab, depths, buffers.sums.data());
  double total = 0;
  for (double sum : buffers.sums) total += sum;
  // In long double: the logarithm of a double is newer than the glibc that a wheel may ask for.
  return peak + double(std::log(static_cast<long double>(total)));
}

void rank_targets(const Passes& passes, const ShoalLogprobs& call, const void* logits,
                  int64_t begin, int64_t end, Buffers& buffers) {
  if (end - begin <= kCounted) {
    for (int64_t i = begin; i < end; i++) {
      const float own = value_of(call, logits, call.targets[i]);
      call.rank[i] = int32_t(passes.at_least(logits, call.vocab, own, nullptr));
    }
    return;
  }
  copy_values(call, logits, buffers.values);
  std::sort(buffers.values.begin(), buffers.values.end());
  for (int64_t i = begin; i < end; i++) {
    const float own = value_of(call, logits, call.targets[i]);
    auto first = std::lower_bound(buffers.values.begin(), buffers.values.end(), own);
    call.rank[i] = int32_t(buffers.values.end() - first);
  }
}

// A logit that at least `num` of the row's tokens reach. `buffers.maxima` are those of the row.
float reached_by(const ShoalLogprobs& call, const void* logits, int64_t num, Buffers& buffers) {
  std::vector<float>& values = buffers.maxima;
  if (num > int64_t(values.size()) / 2) copy_values(call, logits, values);
  auto nth = values.begin() + (num - 1);
  std::nth_element(values.begin(), nth, values.end(), std::greater<float>());
  return *nth;
}

void list_best(const Passes& passes, const ShoalLogprobs& call, int64_t row, int64_t num,
               double norm, Buffers& buffers) {
  const void* logits = call.logits[row];
  const float least = reached_by(call, logits, num, buffers);
  buffers.ids.resize(call.vocab);
  int32_t* ids = buffers.ids.data();
  const int64_t held = passes.at_least(logits, call.vocab, least, ids);
  std::partial_sort(ids, ids + num, ids + held, [&](int32_t a, int32_t b) {
    const float x = value_of(call, logits, a), y = value_of(call, logits, b);
    return x > y || (x == y && a < b);
  });
  for (int64_t i = 0; i < num; i++) {
    call.best[row * call.most + i] = ids[i];
    call.best_logprob[row * call.most + i] = float(value_of(call, logits, ids[i]) - norm);
  }
}

void describe(const Passes& passes, const ShoalLogprobs& call, int64_t row, Buffers& buffers) {
  const void* logits = call.logits[row];
  const int64_t num = call.nums[row], begin = call.offsets[row], end = call.offsets[row + 1];
  if (num > 0) buffers.maxima.resize(maxima_count(call.vocab));
  const float peak = passes.peak(logits, call.vocab, num > 0 ? buffers.maxima.data() : nullptr);
  const bool sound = std::isfinite(peak);
  const double norm = sound ? normalizer(passes, call, logits, peak, buffers) : NAN;
  call.normalizer[row] = norm;
  for (int64_t i = begin; i < end; i++) {
    call.logprob[i] = float(value_of(call, logits, call.targets[i]) - norm);
    call.rank[i] = 0;
  }
  if (!sound) return;
  rank_targets(passes, call, logits, begin, end, buffers);
  if (num > 0) list_best(passes, call, row, num, norm, buffers);
}

}  // namespace
}  // namespace shoal

void shoal_logprobs(const ShoalLogprobs* call) {
  using namespace shoal;
  const Passes& passes = (call->isa >= SHOAL_AVX512 ? passes_avx512 : passes_avx2)[call->dtype];
#pragma omp parallel num_threads(call->threads) if (call->rows > 1)
  {
    Buffers buffers;
#pragma omp for schedule(dynamic)
    for (int64_t row = 0; row < call->rows; row++) describe(passes, *call, row, buffers);
  }
}
