// The softmax of one row of scores, in base 2.
#pragma once
#include <cmath>

#include "attention/convert.h"
#include "vec.h"

namespace shoal {
namespace {

// The highest of a row's first `seen` scores.
inline float highest(const float* scores, int seen) {
  vf a = set1(-INFINITY), b = a;
  int j = 0;
  for (; j + 2 * VL <= seen; j += 2 * VL) {
    a = max(a, load(scores + j));
    b = max(b, load(scores + j + VL));
  }
  for (; j < seen; j += VL) a = max(a, first(load(scores + j), seen - j, set1(-INFINITY)));
  return top(max(a, b));
}

// Its weights: weights[j] = 2^(scores[j] * scale - peak), 0 where unseen. Returns their sum.
template <int kDegree, class A>
inline float weigh(const float* scores, A* weights, int seen, int len, float scale, float peak) {
  const vf factor = set1(scale), offset = set1(-peak);
  vf a = set1(0), b = a;
  int j = 0;
  for (; j + 2 * VL <= seen; j += 2 * VL) {
    vf p = exp2<kDegree>(fma(load(scores + j), factor, offset));
    vf q = exp2<kDegree>(fma(load(scores + j + VL), factor, offset));
    a = a + p;
    b = b + q;
    store_from_float(weights + j, p);
    store_from_float(weights + j + VL, q);
  }
  for (; j < len; j += VL) {
    vf p = set1(0);
    if (j < seen)
      p = first(exp2<kDegree>(fma(load(scores + j), factor, offset)), seen - j, set1(0));
    a = a + p;
    store_from_float(weights + j, p);
  }
  return sum(a + b);
}

}  // namespace
}  // namespace shoal
