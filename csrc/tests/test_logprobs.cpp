// Runs the kernel of log-probabilities on rows of odd sizes against their definition, in double.
// Built with the sanitizers like test_kernels.cpp: buffers hold the logits and nothing more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "shoal_kernels.h"

namespace {

std::mt19937 rng;

template <class T>
T pick(std::initializer_list<T> of) {
  return of.begin()[rng() % of.size()];
}

struct Rows {
  std::vector<std::vector<float>> logits;
  std::vector<std::unique_ptr<uint16_t[]>> narrow;
};

// Rows of numbers that bfloat16 has, some of them equal, some -infinity.
Rows make_rows(int64_t rows, int64_t vocab) {
  std::normal_distribution<float> normal(0, pick({0.1f, 2.0f, 9.0f}));
  Rows made;
  for (int64_t row = 0; row < rows; row++) {
    std::vector<float> logits(vocab);
    made.narrow.emplace_back(new uint16_t[vocab]);
    for (int64_t i = 0; i < vocab; i++) {
      uint32_t bits;
      logits[i] = i == 0 || rng() % 10 ? normal(rng) : -INFINITY;
      memcpy(&bits, &logits[i], 4);
      bits &= 0xffff0000;
      memcpy(&logits[i], &bits, 4);
      made.narrow.back()[i] = bits >> 16;
    }
    made.logits.push_back(std::move(logits));
  }
  return made;
}

bool near(double a, double b) { return a == b || std::abs(a - b) < 1e-5; }

int wrong_in_row(const std::vector<float>& logits, const ShoalLogprobs& call, int64_t row) {
  double sum = 0;
  const double peak = *std::max_element(logits.begin(), logits.end());
  for (float x : logits) sum += std::exp(x - peak);
  const double norm = peak + std::log(sum);
  int wrong = !near(call.normalizer[row], norm);
  for (int64_t i = call.offsets[row]; i < call.offsets[row + 1]; i++) {
    const float own = logits[call.targets[i]];
    auto reaches = [&](float x) { return x >= own; };
    wrong += !near(call.logprob[i], own - norm);
    wrong += call.rank[i] != std::count_if(logits.begin(), logits.end(), reaches);
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  for (int64_t i = 0; i < call.nums[row]; i++) {
    wrong += call.best[row * call.most + i] != order[i];
    wrong += !near(call.best_logprob[row * call.most + i], logits[order[i]] - norm);
  }
  return wrong;
}

int round_of_calls(int32_t isa) {
  const int64_t vocab = pick<int64_t>({1, 2, 15, 16, 17, 100, 1023, 1024, 1025, 5000});
  const int64_t rows = 12;
  const bool wide = rng() % 2;
  const Rows made = make_rows(rows, vocab);
  std::vector<const void*> addresses;
  std::vector<int64_t> offsets{0}, nums;
  std::vector<int32_t> targets;
  for (int64_t row = 0; row < rows; row++) {
    addresses.push_back(wide ? static_cast<const void*>(made.logits[row].data())
                             : made.narrow[row].get());
    nums.push_back(std::min(vocab, pick<int64_t>({0, 0, 1, 5, 60, vocab})));
    for (int64_t n = pick({0, 1, 1, 8, 9, 40}); n > 0; n--) targets.push_back(rng() % vocab);
    offsets.push_back(targets.size());
  }
  const int64_t most = *std::max_element(nums.begin(), nums.end());
  std::vector<float> logprob(targets.size()), best_logprob(rows * most);
  std::vector<int32_t> rank(targets.size()), best(rows * most);
  std::vector<double> normalizer(rows);
  ShoalLogprobs call{};
  call.dtype = wide ? SHOAL_FLOAT32 : SHOAL_BFLOAT16;
  call.isa = isa;
  call.threads = 2;
  call.rows = rows;
  call.vocab = vocab;
  call.logits = addresses.data();
  call.offsets = offsets.data();
  call.targets = targets.data();
  call.nums = nums.data();
  call.most = most;
  call.logprob = logprob.data();
  call.rank = rank.data();
  call.best = best.data();
  call.best_logprob = best_logprob.data();
  call.normalizer = normalizer.data();
  shoal_logprobs(&call);
  int wrong = 0;
  for (int64_t row = 0; row < rows; row++) wrong += wrong_in_row(made.logits[row], call, row);
  if (wrong) printf("isa %d vocab %ld %s: %d wrong\n", isa, long(vocab), wide ? "f32" : "bf16", wrong);
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int32_t isa : {SHOAL_AVX2, SHOAL_AVX512})
    if (isa <= shoal_highest_isa())
      for (int round = 0; round < 150; round++) wrong += round_of_calls(isa);
  printf("%d wrong logprobs, ranks and tokens\n", wrong);
  return wrong != 0;
}
