// Runs the sampling kernel on rows of odd sizes against choosing by definition, in double.
// Built with the sanitizers like test_kernels.cpp: buffers hold the logits and nothing more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "shoal_kernels.h"

namespace {

std::mt19937 rng;

double uniform() { return (rng() + 0.5) / 4294967296.0; }

template <class T>
T pick(std::initializer_list<T> of) {
  return of.begin()[rng() % of.size()];
}

struct Row {
  float temperature, min_p;
  int64_t top_k;
  double top_p, uniform;
};

// The tokens that may be chosen, where the uniform number may lie this far from their share.
std::vector<bool> allowed(const std::vector<float>& logits, const Row& row, double slack) {
  const int64_t vocab = logits.size();
  std::vector<bool> good(vocab);
  const float peak = *std::max_element(logits.begin(), logits.end());
  if (row.temperature == 0) {
    good[std::max_element(logits.begin(), logits.end()) - logits.begin()] = true;
    return good;
  }
  std::vector<double> weight(vocab);
  std::vector<int64_t> order(vocab);
  for (int64_t i = 0; i < vocab; i++) {
    weight[i] = std::exp((double(logits[i]) - peak) / row.temperature);
    if (weight[i] < row.min_p) weight[i] = 0;
  }
  std::iota(order.begin(), order.end(), 0);
  const bool ranked = row.top_k < vocab || row.top_p < 1;
  if (ranked)
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
  int64_t kept = vocab;
  if (row.top_k < vocab) {
    kept = row.top_k;
    while (kept < vocab && logits[order[kept]] == logits[order[kept - 1]]) kept++;
  }
  double mass = 0;
  for (int64_t i = 0; i < kept; i++) mass += weight[order[i]];
  // Where top-p ends is itself uncertain by the slack.
  double least = mass, most = mass;
  if (row.top_p < 1) {
    double before = 0;
    least = most = 0;
    for (int64_t i = 0; i < kept; i++) {
      if (before < (row.top_p - slack) * mass) least += weight[order[i]];
      if (before < (row.top_p + slack) * mass) most += weight[order[i]];
      before += weight[order[i]];
    }
  }
  double before = 0;
  for (int64_t i = 0; i < kept; i++) {
    const double after = before + weight[order[i]];
    good[order[i]] = weight[order[i]] > 0 && after >= row.uniform * least - slack * mass &&
                     before <= row.uniform * most + slack * mass;
    before = after;
  }
  return good;
}

int round_of_calls(int32_t isa) {
  const int64_t vocab = pick<int64_t>({1, 2, 15, 16, 17, 100, 1023, 1024, 1025, 5000});
  const float spread = pick({0.1f, 2.0f, 9.0f});
  const bool wide = rng() % 2;
  const int64_t rows = 24;
  std::normal_distribution<float> normal(0, spread);
  std::vector<std::vector<float>> logits(rows, std::vector<float>(vocab));
  std::vector<std::unique_ptr<uint16_t[]>> narrow;
  std::vector<const void*> addresses;
  for (auto& row : logits) {
    narrow.emplace_back(new uint16_t[vocab]);
    for (int64_t i = 0; i < vocab; i++) {
      uint32_t bits;
      row[i] = rng() % 10 ? normal(rng) : -INFINITY;
      if (i == 0) row[i] = 0;
      memcpy(&bits, &row[i], 4);
      bits &= 0xffff0000;
      memcpy(&row[i], &bits, 4);
      narrow.back()[i] = bits >> 16;
    }
    addresses.push_back(wide ? static_cast<const void*>(row.data()) : narrow.back().get());
  }
  std::vector<float> temperature, min_p;
  std::vector<int64_t> top_k;
  std::vector<double> top_p, uniforms;
  for (int64_t row = 0; row < rows; row++) {
    temperature.push_back(pick({0.0f, 0.5f, 1.0f, 2.0f}));
    min_p.push_back(pick({0.0f, 0.0f, 0.0123f}));
    top_k.push_back(std::clamp<int64_t>(pick<int64_t>({1, 3, vocab / 2, vocab, vocab}), 1, vocab));
    top_p.push_back(pick({1.0, 1.0, 0.3, 0.9, 0.99999}));
    uniforms.push_back(uniform());
  }
  // The exact number of words, so that reading beyond them is noticed.
  const bool restricted = rng() % 2;
  const int64_t words = (vocab + 31) / 32;
  std::unique_ptr<uint32_t[]> may(new uint32_t[rows * words]);
  std::vector<std::vector<float>> seen = logits;
  for (int64_t row = 0; row < rows; row++) {
    for (int64_t word = 0; word < words; word++) may[row * words + word] = rng() & rng();
    may[row * words] |= 1;
    for (int64_t i = 0; restricted && i < vocab; i++)
      if (!(may[row * words + i / 32] >> i % 32 & 1)) seen[row][i] = -INFINITY;
  }
  std::vector<int32_t> tokens(rows);
  ShoalSample call{};
  call.allowed = restricted ? may.get() : nullptr;
  call.dtype = wide ? SHOAL_FLOAT32 : SHOAL_BFLOAT16;
  call.isa = isa;
  call.threads = 2;
  call.rows = rows;
  call.vocab = vocab;
  call.logits = addresses.data();
  call.temperature = temperature.data();
  call.min_p = min_p.data();
  call.top_k = top_k.data();
  call.top_p = top_p.data();
  call.uniform = uniforms.data();
  call.tokens = tokens.data();
  shoal_sample(&call);
  int wrong = 0;
  for (int64_t r = 0; r < rows; r++) {
    const Row row{temperature[r], min_p[r], top_k[r], top_p[r], uniforms[r]};
    const bool good = tokens[r] >= 0 && tokens[r] < vocab && allowed(seen[r], row, 1e-5)[tokens[r]];
    if (!good)
      printf("isa %d vocab %ld T %g min_p %g top_k %ld top_p %g u %g: token %d\n", isa, long(vocab),
             row.temperature, row.min_p, long(row.top_k), row.top_p, row.uniform, tokens[r]);
    wrong += !good;
  }
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int32_t isa : {SHOAL_AVX2, SHOAL_AVX512})
    if (isa <= shoal_highest_isa())
      for (int round = 0; round < 150; round++) wrong += round_of_calls(isa);
  printf("%d wrong tokens\n", wrong);
  return wrong != 0;
}
