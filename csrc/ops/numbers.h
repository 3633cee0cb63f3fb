// Reading and writing numbers as float32, and the two functions of them that the ops need. Plain
// scalar code: the loops over it are made vectors by the compiler, for each instruction set's file
// on its own, hence the unnamed namespace.
#pragma once
#include <cstdint>
#include <cstring>

namespace shoal {
namespace {

inline float as_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t as_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

inline float get(float x) { return x; }
inline float get(uint16_t x) { return as_float(uint32_t(x) << 16); }
inline void put(float* p, float x) { *p = x; }
inline void put(uint16_t* p, float x) {  // bfloat16, to nearest, ties to even
  uint32_t bits = as_bits(x);
  *p = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// 1 / (1 + e^-x). The polynomial is vec.h's for 2^f: it errs by 2e-9.
inline float sigmoid(float x) {
  float y = x * (x > 0 ? -1.442695041f : 1.442695041f);  // log2 of e^-|x|
  y = y < -126.0f ? -126.0f : y;                         // in this order: NaN passes
  float magic = 12582912.0f;                             // 1.5 * 2^23: adding it rounds
  float n = y + magic;
  float f = y - (n - magic);
  float p = 1.534581201e-4f;
  p = p * f + 1.339993122e-3f;
  p = p * f + 9.618488957e-3f;
  p = p * f + 5.550328777e-2f;
  p = p * f + 2.402264689e-1f;
  p = p * f + 6.931472057e-1f;
  p = p * f + 1.0f;
  float e = as_float(as_bits(p) + (as_bits(n) << 23));
  return (x > 0 ? 1.0f : e) / (1.0f + e);
}

struct Silu {
  static float of(float x) { return x * sigmoid(x); }
};
struct GeluTanh {  // x/2 (1 + tanh u) = x sigmoid(2u)
  static float of(float x) {
    return x * sigmoid(1.595769122f * (x + 0.044715f * x * x * x));
  }
};

}  // namespace
}  // namespace shoal
