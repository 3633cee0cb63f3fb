// The two products of an adapter on a few rows, in tiles that stay in registers. Matrices are float32
// or bfloat16, and are widened when read; sums are float32.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "ops/numbers.h"
#include "vec.h"

namespace shoal {
namespace {

inline vf read(const float* p) { return load(p); }
inline vf read(const uint16_t* p) { return load_bf16(p); }
inline void write(float* p, vf x) { store(p, x); }
inline void write(uint16_t* p, vf x) { store_bf16(p, x); }

constexpr int kRows = 4;                    // rows of a tile
constexpr int kRanks = VL == 16 ? 4 : 2;    // rows of A in a tile: as many sums as there are registers
constexpr int kVectors = VL == 16 ? 4 : 2;  // vectors of outputs in a tile

// low[r][k] = x[r] . a[k] for R rows and K rows of A.
template <int R, int K, class W>
void low_tile(const float* x, int64_t x_row, const W* a, int64_t inputs, float* low, int64_t low_row) {
  vf sums[R][K];
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) sums[r][k] = set1(0);
  int64_t i = 0;
  for (; i + VL <= inputs; i += VL) {
    vf row[R];
    for (int r = 0; r < R; r++) row[r] = load(x + r * x_row + i);
    for (int k = 0; k < K; k++) {
      vf of_a = read(a + k * inputs + i);
      for (int r = 0; r < R; r++) sums[r][k] = fma(row[r], of_a, sums[r][k]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) {
      float all = sum(sums[r][k]);
      for (int64_t j = i; j < inputs; j++) all += x[r * x_row + j] * get(a[k * inputs + j]);
      low[r * low_row + k] = all;
    }
}

#if defined(__AVX512BF16__)
constexpr bool kPairs = true;  // rows and matrices of bfloat16 are multiplied as they are

template <int R, int K>
void low_tile(const uint16_t* x, int64_t x_row, const uint16_t* a, int64_t inputs, float* low, int64_t low_row) {
  vf sums[R][K];
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) sums[r][k] = set1(0);
  for (int64_t i = 0; i < inputs; i += 2 * VL) {
    __mmask32 in = inputs - i < 2 * VL ? (__mmask32)((1u << (inputs - i)) - 1) : ~(__mmask32)0;
    __m512i row[R];
    for (int r = 0; r < R; r++) row[r] = _mm512_maskz_loadu_epi16(in, x + r * x_row + i);
    for (int k = 0; k < K; k++) {
      __m512i of_a = _mm512_maskz_loadu_epi16(in, a + k * inputs + i);
      for (int r = 0; r < R; r++) sums[r][k] = _mm512_dpbf16_ps(sums[r][k], (__m512bh)row[r], (__m512bh)of_a);
    }
  }
  for (int r = 0; r < R; r++)
    for (int k = 0; k < K; k++) low[r * low_row + k] = sum(sums[r][k]);
}
#else
constexpr bool kPairs = false;
#endif

// x [R rows, inputs] times A^T: low [R, rank]. For single rows more of A is read at once.
template <int R, class X, class W>
void low_rows(const X* x, int64_t x_row, const W* a, int64_t inputs, int64_t rank, float* low) {
  constexpr int K = R == 1 ? 2 * kRanks : kRanks;
  int64_t k = 0;
  for (; k + K <= rank; k += K) low_tile<R, K>(x, x_row, a + k * inputs, inputs, low + k, rank);
  for (; k < rank; k++) low_tile<R, 1>(x, x_row, a + k * inputs, inputs, low + k, rank);
}

// out[r][0 .. N vectors] += scale * low[r] . b, b being [rank] rows of `pitch`.
template <int R, int N, class W, class T>
void high_tile(const float* low, int64_t rank, const W* b, int64_t pitch, float scale, T* out, int64_t out_row) {
  vf sums[R][N];
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) sums[r][n] = set1(0);
  for (int64_t k = 0; k < rank; k++) {
    vf of_b[N];
    for (int n = 0; n < N; n++) of_b[n] = read(b + k * pitch + n * VL);
    for (int r = 0; r < R; r++) {
      vf of_low = set1(low[r * rank + k]);
      for (int n = 0; n < N; n++) sums[r][n] = fma(of_low, of_b[n], sums[r][n]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) {
      T* to = out + r * out_row + n * VL;
      write(to, fma(set1(scale), sums[r][n], read(to)));
    }
}

// The same for one panel of B: its `width` columns, dense.
template <int R, class W, class T>
void high_panel(const float* low, int64_t rank, const W* b, int64_t width, float scale, T* out, int64_t out_row) {
  int64_t c = 0;
  for (; c + kVectors * VL <= width; c += kVectors * VL)
    high_tile<R, kVectors>(low, rank, b + c, width, scale, out + c, out_row);
  for (; c + VL <= width; c += VL) high_tile<R, 1>(low, rank, b + c, width, scale, out + c, out_row);
  for (; c < width; c++)
    for (int r = 0; r < R; r++) {
      float all = 0;
      for (int64_t k = 0; k < rank; k++) all += low[r * rank + k] * get(b[k * width + c]);
      T* to = out + r * out_row + c;
      put(to, get(*to) + scale * all);
    }
}

// Calls run<R>(first row) for tiles of at most kRows rows.
template <class Run>
void each_row_tile(int64_t rows, const Run& run) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) run(std::integral_constant<int, kRows>(), r);
  for (; r < rows; r++) run(std::integral_constant<int, 1>(), r);
}

}  // namespace
}  // namespace shoal
