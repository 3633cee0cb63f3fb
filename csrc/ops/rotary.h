// Norms and rotation of a product's query and key heads, in place or on the way from float32, and the
// way of keys and values into the pool.
#pragma once
#include "ops/rows.h"

namespace shoal {
namespace {

constexpr int64_t kChunk = 16;  // rows of a task

template <class T>
void rotate_head(T* head, const ShoalRotary& c, const T* cos, const T* sin) {
  int64_t half = c.rotary_dim / 2;
  if (c.neighbours) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
      float a = get(head[2 * i]), b = get(head[2 * i + 1]);
      put(head + 2 * i, a * get(cos[2 * i]) - b * get(sin[2 * i]));
      put(head + 2 * i + 1, b * get(cos[2 * i + 1]) + a * get(sin[2 * i + 1]));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
      float a = get(head[i]), b = get(head[i + half]);
      put(head + i, a * get(cos[i]) - b * get(sin[i]));
      put(head + i + half, b * get(cos[i + half]) + a * get(sin[i + half]));
    }
  }
}

template <class T>
void turn_row(const ShoalRotary& c, int64_t row) {
  T* head = static_cast<T*>(c.qkv) + row * c.qkv_row;
  if (c.wide) {
    const float* from = c.wide + row * c.qkv_row;
#pragma omp simd
    for (int64_t i = 0; i < c.qkv_row; i++) put(head + i, from[i]);
  }
  auto cos = static_cast<const T*>(c.cos) + row * c.angle_row;
  auto sin = static_cast<const T*>(c.sin) + row * c.angle_row;
  for (int32_t h = 0; h < c.heads + c.kv_heads; h++, head += c.key_dim) {
    auto weight = static_cast<const T*>(h < c.heads ? c.query_norm : c.key_norm);
    if (weight) norm_row(head, c.key_dim, weight, c.offset, c.eps, head);
    if (c.rotary_dim) rotate_head(head, c, cos, sin);
  }
}

// Rows whose places in a block follow each other: n keys of a head, at `to` of the block.
template <class T, int Pack>
void store_keys(const T* key, int64_t row, int64_t n, int32_t dim, T* to) {
  for (int32_t d = 0; d < dim; d += Pack, to += SHOAL_BLOCK * Pack)
    for (int64_t t = 0; t < n; t++) memcpy(to + t * Pack, key + t * row + d, Pack * sizeof(T));
}

// The same for values; `offset` in the block.
template <class T, int Pack>
void store_values(const T* value, int64_t row, int64_t offset, int64_t n, int32_t dim, T* block) {
  for (int64_t t = 0; t < n;) {
    int64_t at = offset + t;
    T* to = block + at / Pack * dim * Pack;
    const T* from = value + t * row;
    if (Pack == 1) {
      memcpy(to, from, dim * sizeof(T));
      t++;
    } else if (at % 2 == 0 && t + 1 < n) {
      for (int32_t d = 0; d < dim; d++) to[2 * d] = from[d], to[2 * d + 1] = from[row + d];
      t += 2;
    } else {
      for (int32_t d = 0; d < dim; d++) to[2 * d + at % 2] = from[d];
      t++;
    }
  }
}

template <class T>
void store_rows(const ShoalRotary& c, int64_t first, int64_t last) {
  constexpr int Pack = sizeof(T) == 2 ? 2 : 1;
  for (int64_t row = first, n; row < last; row += n) {
    int64_t slot = c.slots[row], block = slot / SHOAL_BLOCK, offset = slot % SHOAL_BLOCK;
    for (n = 1; row + n < last && offset + n < SHOAL_BLOCK && c.slots[row + n] == slot + n;) n++;
    auto key = static_cast<const T*>(c.qkv) + row * c.qkv_row + int64_t(c.heads) * c.key_dim;
    auto value = key + int64_t(c.kv_heads) * c.key_dim;
    for (int32_t h = 0; h < c.kv_heads; h++) {
      auto keys = static_cast<T*>(c.keys) + h * c.keys_head + block * SHOAL_BLOCK * c.key_dim;
      auto values = static_cast<T*>(c.values) + h * c.values_head + block * SHOAL_BLOCK * c.value_dim;
      store_keys<T, Pack>(key + h * c.key_dim, c.qkv_row, n, c.key_dim, keys + offset * Pack);
      store_values<T, Pack>(value + h * c.value_dim, c.qkv_row, offset, n, c.value_dim, values);
    }
  }
}

// As shoal_kv_store does: values of unused slots are multiplied by zero and must be finite.
template <class T>
void clear_new_block(const ShoalRotary& c, int64_t slot) {
  if (slot % SHOAL_BLOCK != 0) return;
  for (int32_t h = 0; h < c.kv_heads; h++)
    memset(static_cast<T*>(c.values) + h * c.values_head + slot * c.value_dim, 0,
           SHOAL_BLOCK * sizeof(T) * c.value_dim);
}

template <class T>
void rotary(const ShoalRotary& c) {
  int64_t chunks = (c.rows + kChunk - 1) / kChunk;
#pragma omp parallel num_threads(c.threads) if (c.rows * c.qkv_row > kParallelFrom)
  {
    if (c.keys) {
#pragma omp for schedule(static)
      for (int64_t row = 0; row < c.rows; row++) clear_new_block<T>(c, c.slots[row]);
    }
#pragma omp for schedule(dynamic, 1)
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      int64_t first = chunk * kChunk, last = first + kChunk < c.rows ? first + kChunk : c.rows;
      for (int64_t row = first; row < last; row++) turn_row<T>(c, row);
      if (c.keys) store_rows<T>(c, first, last);
    }
  }
}

template <class T>
Ops make_ops() {
  return {rms_norm<T>, gated<T>, rotary<T>, quantize<T>};
}

}  // namespace
}  // namespace shoal
