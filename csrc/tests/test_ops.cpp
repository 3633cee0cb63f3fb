// Runs the ops between a layer's products on odd sizes against their definitions, in double.
// Built with the sanitizers like test_kernels.cpp: buffers hold what the ops may touch and nothing more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "numbers.h"
#include "shoal_kernels.h"

namespace {

template <class T>
bool near(T found, double expected, const char* what) {
  double unit = sizeof(T) == 2 ? 1.0 / 128 : 1e-5;
  if (std::abs(as_double(found) - expected) <= unit * (std::abs(expected) + 0.05)) return true;
  printf("%s: %g instead of %g\n", what, as_double(found), expected);
  return false;
}

template <class T>
std::vector<double> normed(const T* x, int64_t n, const T* weight, double offset, double eps) {
  double squares = 0;
  for (int64_t i = 0; i < n; i++) squares += double(as_double(x[i])) * as_double(x[i]);
  std::vector<double> out(n);
  for (int64_t i = 0; i < n; i++)
    out[i] = as_double(x[i]) / std::sqrt(squares / n + eps) * (offset + as_double(weight[i]));
  return out;
}

template <class T>
int test_norm(int32_t dtype, int32_t isa, int32_t threads) {
  int64_t rows = pick({1, 3, 40}), width = pick({1, 17, 64, 771}), stride = width + pick({0, 5});
  auto x = random_numbers<T>((rows - 1) * stride + width), weight = random_numbers<T>(width);
  std::vector<T> out(rows * width);
  ShoalRmsNorm call{dtype, isa, threads, rows, width, x.data(), stride, weight.data(), 1, 1e-6f, out.data()};
  shoal_rms_norm(&call);
  int wrong = 0;
  for (int64_t r = 0; r < rows; r++) {
    auto expected = normed(x.data() + r * stride, width, weight.data(), 1, 1e-6);
    for (int64_t i = 0; i < width; i++) wrong += !near(out[r * width + i], expected[i], "norm");
  }
  return wrong;
}

template <class T>
int test_gated(int32_t dtype, int32_t isa, int32_t threads) {
  int64_t rows = pick({1, 3, 40}), width = pick({1, 17, 64, 771}), stride = 2 * width + pick({0, 5});
  int32_t activation = pick({SHOAL_SILU, SHOAL_GELU_TANH});
  auto in = random_numbers<T>((rows - 1) * stride + 2 * width);
  std::vector<T> out(rows * width);
  ShoalGated call{dtype, isa, threads, activation, rows, width, in.data(), stride, out.data()};
  shoal_gated(&call);
  int wrong = 0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < width; i++) {
      double gate = as_double(in[r * stride + i]), up = as_double(in[r * stride + width + i]);
      double inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate);
      double active = activation == SHOAL_SILU ? gate / (1 + std::exp(-gate))
                                               : gate / 2 * (1 + std::tanh(inner));
      wrong += !near(out[r * width + i], active * up, "gated");
    }
  return wrong;
}

template <class T>
int test_quantize(int32_t dtype, int32_t isa, int32_t threads) {
  int64_t rows = pick({1, 3, 40}), width = pick({1, 17, 64, 771}), stride = width + pick({0, 5});
  auto x = random_numbers<T>((rows - 1) * stride + width);
  std::vector<uint8_t> out(rows * width);
  std::vector<float> scales(rows);
  ShoalQuantize call{dtype, isa, threads, rows, width, x.data(), stride, out.data(), scales.data()};
  shoal_quantize(&call);
  int wrong = 0;
  for (int64_t r = 0; r < rows; r++) {
    double top = 0;
    for (int64_t i = 0; i < width; i++) top = std::max<double>(top, std::abs(as_double(x[r * stride + i])));
    wrong += !near(scales[r], top / 127, "scale");
    for (int64_t i = 0; i < width; i++) {
      double error = (out[r * width + i] - 128.0) * scales[r] - as_double(x[r * stride + i]);
      if (std::abs(error) <= 0.50001 * scales[r]) continue;
      printf("quantize: off by %g steps\n", error / scales[r]);
      wrong++;
    }
  }
  return wrong;
}

template <class T>
int test_rotary(int32_t dtype, int32_t isa, int32_t threads) {
  ShoalRotary c{};
  c.dtype = dtype, c.isa = isa, c.threads = threads;
  c.heads = pick({1, 6}), c.kv_heads = pick({1, 2}), c.key_dim = pick({8, 20, 64});
  c.value_dim = pick({2, 20, 64}), c.rotary_dim = pick({0, 4, c.key_dim}), c.neighbours = pick({0, 1});
  c.rows = pick({1, 7, 70}), c.offset = 0, c.eps = 1e-5f;
  int64_t row = (c.heads + c.kv_heads) * c.key_dim + c.kv_heads * c.value_dim;
  c.qkv_row = row;
  auto before = random_numbers<T>(c.rows * row), qkv = before;
  auto cos = random_numbers<T>(c.rows * c.rotary_dim), sin = random_numbers<T>(c.rows * c.rotary_dim);
  auto query_norm = random_numbers<T>(c.key_dim), key_norm = random_numbers<T>(c.key_dim);
  std::vector<float> wide(before.size());
  for (size_t i = 0; i < wide.size(); i++) wide[i] = as_double(before[i]);
  if (pick({0, 1})) {
    c.wide = wide.data();
    std::fill(qkv.begin(), qkv.end(), T(1));
  }
  c.qkv = qkv.data(), c.cos = cos.data(), c.sin = sin.data(), c.angle_row = c.rotary_dim;
  bool norms = pick({0, 1});
  if (norms) c.query_norm = query_norm.data(), c.key_norm = key_norm.data();
  // A run of slots from somewhere inside a block, over blocks in descending order.
  int64_t blocks = c.rows / SHOAL_BLOCK + 2, offset = pick({0, 1, 31});
  std::vector<int64_t> slots(c.rows);
  for (int64_t r = 0; r < c.rows; r++) {
    int64_t at = offset + r;
    slots[r] = (blocks - 1 - at / SHOAL_BLOCK) * SHOAL_BLOCK + at % SHOAL_BLOCK;
  }
  c.slots = slots.data();
  c.keys_head = blocks * SHOAL_BLOCK * c.key_dim, c.values_head = blocks * SHOAL_BLOCK * c.value_dim;
  std::vector<T> keys(c.kv_heads * c.keys_head), values(c.kv_heads * c.values_head);
  bool stores = pick({0, 1});
  if (stores) c.keys = keys.data(), c.values = values.data();
  shoal_rotary(&c);

  int wrong = 0, pack = sizeof(T) == 2 ? 2 : 1;
  for (int64_t r = 0; r < c.rows; r++) {
    int64_t block = slots[r] / SHOAL_BLOCK, in_block = slots[r] % SHOAL_BLOCK;
    for (int32_t h = 0; h < c.heads + c.kv_heads; h++) {
      int64_t at = r * row + h * c.key_dim;
      std::vector<double> x(c.key_dim);
      if (norms) x = normed(&before[at], c.key_dim, (h < c.heads ? query_norm : key_norm).data(), 0, 1e-5);
      else for (int32_t d = 0; d < c.key_dim; d++) x[d] = as_double(before[at + d]);
      auto y = x;
      for (int32_t i = 0; i < c.rotary_dim / 2; i++) {
        int32_t p = c.neighbours ? 2 * i : i, q = c.neighbours ? 2 * i + 1 : i + c.rotary_dim / 2;
        const T *cs = &cos[r * c.rotary_dim], *sn = &sin[r * c.rotary_dim];
        y[p] = x[p] * as_double(cs[p]) - x[q] * as_double(sn[p]);
        y[q] = x[q] * as_double(cs[q]) + x[p] * as_double(sn[q]);
      }
      for (int32_t d = 0; d < c.key_dim; d++) {
        // A normed head is rounded before it is rotated.
        double slack = norms && sizeof(T) == 2 ? 0.02 * (std::abs(x[d]) + 3) : 0;
        if (std::abs(as_double(qkv[at + d]) - y[d]) > slack) wrong += !near(qkv[at + d], y[d], "rotary");
        if (!stores || h < c.heads) continue;
        int64_t stored = (h - c.heads) * c.keys_head + block * SHOAL_BLOCK * c.key_dim +
                         d / pack * SHOAL_BLOCK * pack + in_block * pack + d % pack;
        wrong += as_double(keys[stored]) != as_double(qkv[at + d]);
      }
    }
    for (int32_t h = 0; stores && h < c.kv_heads; h++)
      for (int32_t d = 0; d < c.value_dim; d++) {
        int64_t stored = h * c.values_head + block * SHOAL_BLOCK * c.value_dim +
                         in_block / pack * c.value_dim * pack + d * pack + in_block % pack;
        int64_t from = r * row + (c.heads + c.kv_heads) * c.key_dim + h * c.value_dim + d;
        wrong += as_double(values[stored]) != as_double(before[from]);
      }
  }
  return wrong;
}

template <class T>
int test_all(int32_t dtype, int32_t isa) {
  int wrong = 0;
  for (int round = 0; round < 60; round++) {
    rng.seed(round);
    int32_t threads = 1 + round % 3;
    wrong += test_norm<T>(dtype, isa, threads) + test_gated<T>(dtype, isa, threads) +
             test_rotary<T>(dtype, isa, threads) + test_quantize<T>(dtype, isa, threads);
  }
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int32_t isa : {SHOAL_AVX2, SHOAL_AVX512})
    if (isa <= shoal_highest_isa())
      wrong += test_all<float>(SHOAL_FLOAT32, isa) + test_all<uint16_t>(SHOAL_BFLOAT16, isa);
  printf("%d wrong numbers\n", wrong);
  return wrong != 0;
}
