// RMSNorm, gated activations, quantization: each row on its own.
#pragma once
#include <cmath>

#include "ops/numbers.h"
#include "ops/ops.h"

namespace shoal {
namespace {

constexpr int64_t kParallelFrom = 1 << 14;  // elements; below, waking a thread costs more

// Rows handed to a thread at a time: cores need not be equally fast.
inline int64_t rows_at_once(int64_t rows, int32_t threads) {
  int64_t share = rows / (8 * int64_t(threads));
  return share < 1 ? 1 : share;
}

// to = x / sqrt(mean(x^2) + eps) * (offset + weight); `to` may be `x`.
template <class T>
void norm_row(const T* x, int64_t width, const T* weight, float offset, float eps, T* to) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < width; i++) squares += get(x[i]) * get(x[i]);
  float scale = 1.0f / std::sqrt(squares / float(width) + eps);
#pragma omp simd
  for (int64_t i = 0; i < width; i++) put(to + i, get(x[i]) * scale * (offset + get(weight[i])));
}

template <class T>
void rms_norm(const ShoalRmsNorm& c) {
  int64_t chunk = rows_at_once(c.rows, c.threads);
#pragma omp parallel for num_threads(c.threads) if (c.rows * c.width > kParallelFrom) schedule(dynamic, chunk)
  for (int64_t row = 0; row < c.rows; row++)
    norm_row(static_cast<const T*>(c.x) + row * c.x_row, c.width, static_cast<const T*>(c.weight),
             c.offset, c.eps, static_cast<T*>(c.out) + row * c.width);
}

template <class T, class Activation>
void gated_rows(const ShoalGated& c) {
  int64_t chunk = rows_at_once(c.rows, c.threads);
#pragma omp parallel for num_threads(c.threads) if (c.rows * c.width > kParallelFrom) schedule(dynamic, chunk)
  for (int64_t row = 0; row < c.rows; row++) {
    const T* gate = static_cast<const T*>(c.in) + row * c.in_row;
    const T* up = gate + c.width;
    T* out = static_cast<T*>(c.out) + row * c.width;
#pragma omp simd
    for (int64_t i = 0; i < c.width; i++) put(out + i, Activation::of(get(gate[i])) * get(up[i]));
  }
}

template <class T>
void gated(const ShoalGated& c) {
  if (c.activation == SHOAL_SILU)
    gated_rows<T, Silu>(c);
  else
    gated_rows<T, GeluTanh>(c);
}

template <class T>
float quantize_row(const T* x, int64_t width, uint8_t* to) {
  float top = 0, unsound = 0;  // 0, or NaN
#pragma omp simd reduction(max : top) reduction(+ : unsound)
  for (int64_t i = 0; i < width; i++) {
    float size = std::fabs(get(x[i]));
    top = size > top ? size : top;
    unsound += size * 0.0f;
  }
  float steps = top > 0 ? 127.0f / top : 0;
  const float magic = 12582912.0f + 128.0f;  // 1.5 * 2^23: adding it rounds to an integer
#pragma omp simd
  for (int64_t i = 0; i < width; i++) to[i] = uint8_t(as_bits(get(x[i]) * steps + magic));
  return top / 127.0f + unsound;
}

template <class T>
void quantize(const ShoalQuantize& c) {
  int64_t chunk = rows_at_once(c.rows, c.threads);
#pragma omp parallel for num_threads(c.threads) if (c.rows * c.width > kParallelFrom) schedule(dynamic, chunk)
  for (int64_t row = 0; row < c.rows; row++)
    c.scales[row] = quantize_row(static_cast<const T*>(c.x) + row * c.x_row, c.width, c.out + row * c.width);
}

}  // namespace
}  // namespace shoal
