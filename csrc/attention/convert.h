// From and to the KV pool's numbers.
#pragma once
#include <type_traits>

#include "vec.h"

namespace shoal {
namespace {

inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
inline void store_from_float(float* p, vf x) { store(p, x); }
inline void store_from_float(uint16_t* p, vf x) { store_bf16(p, x); }

template <class From, class To>
inline void copy_row(const From* from, To* to, int n) {
  if constexpr (std::is_same_v<From, To>) {
    memcpy(to, from, n * sizeof(To));
  } else {
    for (int i = 0; i < n; i++) to[i] = to_float(from[i]);
  }
}

}  // namespace
}  // namespace shoal
