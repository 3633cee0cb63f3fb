// Writes keys and values into the pool's blocks.
#include <sys/mman.h>

#include <cstring>

#include "shoal_kernels.h"

namespace {

template <class T, int Pack>
void copy_key(const ShoalStore& s, const T* key, T* block, int64_t offset) {
  for (int32_t d = 0; d < s.key_dim; d += Pack)
    memcpy(block + (d / Pack * SHOAL_BLOCK + offset) * Pack, key + d, Pack * sizeof(T));
}

template <class T, int Pack>
void store_rows(const ShoalStore& s) {
  const int64_t key_block = int64_t(SHOAL_BLOCK) * s.key_dim;
  const int64_t value_block = int64_t(SHOAL_BLOCK) * s.value_dim;
#pragma omp parallel for num_threads(s.threads) if (s.rows > 64) schedule(static)
  for (int64_t row = 0; row < s.rows; row++) {
    int64_t block = s.slots[row] / SHOAL_BLOCK, offset = s.slots[row] % SHOAL_BLOCK;
    for (int32_t head = 0; head < s.kv_heads; head++) {
      auto key = static_cast<const T*>(s.key) + head * s.key_head + row * s.key_row;
      if (!s.values) {
        auto keys = static_cast<T*>(s.keys) + head * s.keys_head + block * key_block;
        copy_key<T, Pack>(s, key, keys, offset);
        continue;
      }
      auto value = static_cast<const T*>(s.value) + head * s.value_head + row * s.value_row;
      auto keys = static_cast<T*>(s.keys) + head * s.keys_head + block * key_block;
      auto values = static_cast<T*>(s.values) + head * s.values_head + block * value_block;
      copy_key<T, Pack>(s, key, keys, offset);
      T* to = values + offset / Pack * s.value_dim * Pack + offset % Pack;
      for (int32_t d = 0; d < s.value_dim; d++) to[d * Pack] = value[d];
    }
  }
}

// Values of unused slots are multiplied by weights of zero: they must be finite.
template <class T>
void clear_new_blocks(const ShoalStore& s) {
  void* pool = s.values ? s.values : s.keys;
  const int64_t pool_head = s.values ? s.values_head : s.keys_head;
  const int64_t size = int64_t(SHOAL_BLOCK) * (s.values ? s.value_dim : s.key_dim);
#pragma omp parallel for num_threads(s.threads) if (s.rows > 64) schedule(static)
  for (int64_t row = 0; row < s.rows; row++) {
    if (s.slots[row] % SHOAL_BLOCK != 0) continue;
    for (int32_t head = 0; head < s.kv_heads; head++)
      memset(static_cast<T*>(pool) + head * pool_head + s.slots[row] / SHOAL_BLOCK * size, 0,
             size * sizeof(T));
  }
}

}  // namespace

void shoal_kv_store(const ShoalStore* store) {
  if (store->dtype == SHOAL_FLOAT32) {
    clear_new_blocks<float>(*store);
    store_rows<float, 1>(*store);
  } else {
    clear_new_blocks<uint16_t>(*store);
    store_rows<uint16_t, 2>(*store);
  }
}

void shoal_use_huge_pages(void* start, int64_t bytes) {
  constexpr uintptr_t kPage = 4096;
  uintptr_t first = (reinterpret_cast<uintptr_t>(start) + kPage - 1) / kPage * kPage;
  uintptr_t last = (reinterpret_cast<uintptr_t>(start) + bytes) / kPage * kPage;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}
