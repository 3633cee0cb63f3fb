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

// A row's first `seen` scores, times `scale`, softly capped: score = most * tanh(score / most).
// A rational approximation of tanh (Eigen's), good to a few last places; NaN stays NaN.
inline void cap(float* scores, int seen, float scale, float most) {
  const vf factor = set1(scale / most), end = set1(7.90531110763549805f);
  for (int j = 0; j < seen; j += VL) {
    vf x = load(scores + j) * factor;
    x = max(set1(0) - end, set1(0) - max(set1(0) - end, set1(0) - x));  // in this order: NaN passes
    vf xx = x * x;
    vf p = set1(-2.76076847742355e-16f);
    p = fma(p, xx, set1(2.00018790482477e-13f));
    p = fma(p, xx, set1(-8.60467152213735e-11f));
    p = fma(p, xx, set1(5.12229709037114e-08f));
    p = fma(p, xx, set1(1.48572235717979e-05f));
    p = fma(p, xx, set1(6.37261928875436e-04f));
    p = fma(p, xx, set1(4.89352455891786e-03f));
    vf q = set1(1.19825839466702e-06f);
    q = fma(q, xx, set1(1.18534705686654e-04f));
    q = fma(q, xx, set1(2.26843463243900e-03f));
    q = fma(q, xx, set1(4.89352518554385e-03f));
    store(scores + j, x * p / q * set1(most));
  }
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
