// Random numbers in float32 and bfloat16, for the tests of kernels that take both.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <vector>

namespace {

std::mt19937 rng;

int pick(std::initializer_list<int> of) { return of.begin()[rng() % of.size()]; }

double as_double(float x) { return x; }
double as_double(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
void set(float& to, double x) { to = float(x); }
void set(uint16_t& to, double x) {
  float narrow = float(x);
  uint32_t bits;
  memcpy(&bits, &narrow, 4);
  to = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T>
std::vector<T> random_numbers(int64_t n) {
  std::normal_distribution<double> normal;
  std::vector<T> out(n);
  for (T& x : out) set(x, normal(rng));
  return out;
}

}  // namespace
