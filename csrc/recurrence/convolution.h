// A causal convolution over few rows, each channel on its own.
#pragma once
#include <cstring>
#include <vector>

#include "ops/numbers.h"
#include "recurrence/chunks.h"

namespace shoal {
namespace {

constexpr int64_t kChannels = 256;  // of a part

struct Same {
  static float of(float x) { return x; }
};

// `width` channels of a chunk from `channel` on. `before`: room for what came before the chunk.
template <class T, class Activation>
void convolve(const ShoalConvolution& c, const Chunk& chunk, int64_t channel, int64_t width, T* before) {
  int64_t earlier = c.earlier, rows = chunk.end - chunk.begin;
  auto state = [&](int64_t slot, int64_t i) {
    return static_cast<T*>(c.states) + (slot * earlier + i) * c.channels + channel;
  };
  auto row = [&](int64_t i) -> const T* {  // from -earlier on
    if (i < 0) return before + (earlier + i) * kChannels;
    return static_cast<const T*>(c.x) + (chunk.begin + i) * c.x_row + channel;
  };
  for (int64_t i = 0; i < earlier; i++)
    memcpy(before + i * kChannels, state(chunk.source, i), size_t(width) * sizeof(T));
  for (int64_t i = 0; i < rows; i++) {
    float sums[kChannels];
    for (int64_t j = 0; j < width; j++) sums[j] = c.bias ? c.bias[channel + j] : 0;
    for (int64_t k = 0; k <= earlier; k++) {
      const T* x = row(i - earlier + k);
      const float* weight = c.weight + k * c.channels + channel;
#pragma omp simd
      for (int64_t j = 0; j < width; j++) sums[j] += weight[j] * get(x[j]);
    }
    T* out = static_cast<T*>(c.out) + (chunk.begin + i) * c.channels + channel;
#pragma omp simd
    for (int64_t j = 0; j < width; j++) put(out + j, Activation::of(sums[j]));
  }
  for (int64_t i = 0; i < earlier; i++)
    memcpy(state(chunk.target, i), row(rows - earlier + i), size_t(width) * sizeof(T));
}

template <class T, class Activation>
void convolve_all(const ShoalConvolution& c) {
  int64_t parts = (c.channels + kChannels - 1) / kChannels;
  each_chunk(*c.chunks, parts, c.threads, [&](const Chunk& chunk, int64_t part) {
    thread_local std::vector<T> before;
    before.resize(size_t(c.earlier * kChannels));
    int64_t channel = part * kChannels;
    convolve<T, Activation>(c, chunk, channel, std::min(kChannels, c.channels - channel), before.data());
  });
}

template <class T>
void convolution(const ShoalConvolution& c) {
  if (c.activation == SHOAL_SILU)
    convolve_all<T, Silu>(c);
  else if (c.activation == SHOAL_GELU_TANH)
    convolve_all<T, GeluTanh>(c);
  else
    convolve_all<T, Same>(c);
}

}  // namespace
}  // namespace shoal
