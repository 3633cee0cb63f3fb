// Adds adapters of odd sizes to rows in odd slices, against the definition in double.
// Built with the sanitizers like test_kernels.cpp: buffers hold what they may touch and nothing more.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "numbers.h"
#include "shoal_kernels.h"

namespace {

// One adapter's part in one linear layer: its numbers, and B laid out in panels.
struct Part {
  std::vector<double> a, b;  // [rank, inputs], [outputs, rank]
  std::vector<float> wide_a, wide_b;
  std::vector<uint16_t> narrow_a, narrow_b;
  ShoalLoraMatrices matrices{};

  template <class W>
  void lay_out(int64_t inputs, int64_t outputs, std::vector<W>& to_a, std::vector<W>& to_b) {
    int64_t rank = matrices.rank;
    to_a = random_numbers<W>(rank * inputs);
    auto of_b = random_numbers<W>(outputs * rank);
    to_b.resize(of_b.size());
    for (W x : to_a) a.push_back(as_double(x));
    for (W x : of_b) b.push_back(as_double(x));
    int64_t to = 0;
    for (int64_t at = 0; at < outputs; at += SHOAL_LORA_PANEL)
      for (int64_t k = 0; k < rank; k++)
        for (int64_t o = at; o < std::min<int64_t>(at + SHOAL_LORA_PANEL, outputs); o++)
          to_b[to++] = of_b[o * rank + k];
    matrices.a = to_a.data(), matrices.b = to_b.data();
  }

  Part(int64_t inputs, int64_t outputs) {
    matrices.rank = pick({0, 1, 3, 8, 16, 33}), matrices.dtype = pick({SHOAL_FLOAT32, SHOAL_BFLOAT16});
    matrices.scale = 0.25f;
    if (matrices.dtype == SHOAL_FLOAT32) lay_out(inputs, outputs, wide_a, wide_b);
    else lay_out(inputs, outputs, narrow_a, narrow_b);
  }
};

// Slices with gaps between them, as rows without an adapter are.
struct Slices {
  std::vector<int64_t> begin, end;
  std::vector<int32_t> adapter;
  int64_t total = 0;

  explicit Slices(int adapters) {
    for (int n = pick({1, 3, 9}); n > 0; n--) {
      total += pick({0, 0, 2});
      begin.push_back(total);
      total += pick({0, 1, 2, 4, 7, 30, 150});
      end.push_back(total), adapter.push_back(rng() % adapters);
    }
    total += 1;
  }
};

template <class X, class T>
int run(int32_t dtype, int32_t out_dtype, int32_t isa, int32_t threads) {
  constexpr int kAdapters = 3;
  int64_t inputs = pick({1, 15, 16, 64, 77}), linears = pick({1, 2, 3}), width = pick({0, 5});
  std::vector<int64_t> columns, outputs;
  for (int64_t i = 0; i < linears; i++) {
    columns.push_back(width), outputs.push_back(pick({1, 16, 63, 64, 130, 200}));
    width += outputs.back();
  }
  std::vector<std::unique_ptr<Part>> parts;
  std::vector<ShoalLoraMatrices> matrices;
  for (int64_t i = 0; i < kAdapters * linears; i++) {
    parts.push_back(std::make_unique<Part>(inputs, outputs[i % linears]));
    matrices.push_back(parts.back()->matrices);
  }
  Slices slices(kAdapters);
  int64_t first = rng() % 3 ? 0 : rng() % slices.total, rows = slices.total - first;
  if (rng() % 3 == 0) rows -= rng() % rows;
  int64_t x_row = inputs + pick({0, 3}), out_row = width + pick({0, 2});
  auto x = random_numbers<X>(rows * x_row);
  auto out = random_numbers<T>(rows * out_row);
  std::vector<double> expected, size;
  for (T each : out) expected.push_back(as_double(each)), size.push_back(std::abs(as_double(each)));
  for (size_t s = 0; s < slices.begin.size(); s++)
    for (int64_t r = slices.begin[s] - first; r < slices.end[s] - first; r++)
      for (int64_t i = 0; r >= 0 && r < rows && i < linears; i++) {
        const Part& part = *parts[slices.adapter[s] * linears + i];
        for (int64_t k = 0; k < part.matrices.rank; k++) {
          double low = 0, most = 0;
          for (int64_t j = 0; j < inputs; j++) {
            double each = as_double(x[r * x_row + j]) * part.a[k * inputs + j];
            low += each, most += std::abs(each);
          }
          for (int64_t o = 0; o < outputs[i]; o++) {
            double b = part.matrices.scale * part.b[o * part.matrices.rank + k];
            expected[r * out_row + columns[i] + o] += low * b;
            size[r * out_row + columns[i] + o] += most * std::abs(b);
          }
        }
      }
  ShoalLora call{dtype, out_dtype, isa, threads, rows, inputs, first, x.data(), x_row, out.data(), out_row,
                 int64_t(slices.begin.size()), slices.begin.data(), slices.end.data(), slices.adapter.data(),
                 linears, columns.data(), outputs.data(), matrices.data(), linears};
  shoal_lora(&call);
  for (size_t i = 0; i < out.size(); i++) {
    double unit = sizeof(T) == 2 ? std::abs(expected[i]) / 256 : 0;
    if (std::abs(as_double(out[i]) - expected[i]) <= unit + 1e-6 * size[i]) continue;
    printf("%g instead of %g\n", as_double(out[i]), expected[i]);
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int cases = argc > 1 ? atoi(argv[1]) : 200, wrong = 0;
  for (int seed = 0; seed < cases; seed++) {
    rng.seed(seed);
    int32_t isa = rng() % (shoal_highest_isa() + 1), threads = pick({1, 2, 3});
    int bad = 0;
    if (seed % 4 == 0) bad = run<float, float>(SHOAL_FLOAT32, SHOAL_FLOAT32, isa, threads);
    if (seed % 4 == 1) bad = run<uint16_t, uint16_t>(SHOAL_BFLOAT16, SHOAL_BFLOAT16, isa, threads);
    if (seed % 4 == 2) bad = run<uint16_t, float>(SHOAL_BFLOAT16, SHOAL_FLOAT32, isa, threads);
    if (seed % 4 == 3) bad = run<float, uint16_t>(SHOAL_FLOAT32, SHOAL_BFLOAT16, isa, threads);
    if (bad) printf("wrong in case %d\n", seed);
    wrong += bad;
  }
  printf("%d cases, %d wrong\n", cases, wrong);
  return wrong ? 1 : 0;
}
