// The passes of rows.h, in vectors. No standard templates here: the linker would merge them with
// those of files for other instruction sets.
#pragma once
#include <cmath>

#include "sampling/rows.h"
#include "vec.h"

namespace shoal {
namespace {

constexpr int kParts = kLanes / VL;

#if defined(__AVX512F__)
inline uint32_t at_most(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
inline uint32_t below(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline uint32_t unordered(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline vf zero_above(vf a, vf depth, vf deepest) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(depth, deepest, _CMP_LE_OQ), a);
}
inline vf keep(uint32_t lanes, vf a) {
  return _mm512_mask_mov_ps(set1(-INFINITY), __mmask16(lanes), a);
}
typedef __m512d vd;
inline vd widen(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
inline vd add(vd a, vd b) { return _mm512_add_pd(a, b); }
inline vd zero() { return _mm512_setzero_pd(); }
inline void store(double* p, vd a) { _mm512_storeu_pd(p, a); }
#else
inline uint32_t at_most(vf a, vf b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LE_OQ)); }
inline uint32_t below(vf a, vf b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
inline uint32_t unordered(vf a) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
inline vf zero_above(vf a, vf depth, vf deepest) {
  return _mm256_and_ps(_mm256_cmp_ps(depth, deepest, _CMP_LE_OQ), a);
}
inline vf keep(uint32_t lanes, vf a) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  __m256i set = _mm256_and_si256(_mm256_set1_epi32(int(lanes)), bit);
  return _mm256_blendv_ps(set1(-INFINITY), a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit)));
}
typedef __m256d vd;
inline vd widen(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
inline vd add(vd a, vd b) { return _mm256_add_pd(a, b); }
inline vd zero() { return _mm256_setzero_pd(); }
inline void store(double* p, vd a) { _mm256_storeu_pd(p, a); }
#endif
constexpr int kWide = sizeof(vd) / sizeof(double);

inline vf read(const float* p) { return load(p); }
inline vf read(const uint16_t* p) { return load_bf16(p); }
inline float read_one(const float* p) { return *p; }
inline float read_one(const uint16_t* p) { return widened(*p); }

struct Lanes {
  vf part[kParts];
};

// Calls f(first token, its 16 logits) over [begin, end); what is missing at the end is -infinity.
template <class T, class F>
inline void over(const T* logits, int64_t begin, int64_t end, F f) {
  int64_t at = begin;
  Lanes x;
  for (; at + kLanes <= end; at += kLanes) {
    for (int i = 0; i < kParts; i++) x.part[i] = read(logits + at + i * VL);
    if (!f(at, x)) return;
  }
  if (at == end) return;
  float rest[kLanes];
  for (int i = 0; i < kLanes; i++) rest[i] = at + i < end ? read_one(logits + at + i) : -INFINITY;
  for (int i = 0; i < kParts; i++) x.part[i] = load(rest + i * VL);
  f(at, x);
}

template <class F>
inline uint32_t bits(F of_part) {
  uint32_t found = 0;
  for (int i = 0; i < kParts; i++) found |= of_part(i) << (i * VL);
  return found;
}

inline Lanes depths_of(const Lanes& x, const Depths& depths) {
  Lanes d;
  for (int i = 0; i < kParts; i++) d.part[i] = (set1(depths.peak) - x.part[i]) * set1(depths.scale);
  return d;
}

inline void weights_of(const Lanes& d, const Depths& depths, float* out) {
  const vf deepest = set1(depths.deepest);
  for (int i = 0; i < kParts; i++)
    store(out + i * VL, zero_above(exp2<6>(set1(0.0f) - d.part[i]), d.part[i], deepest));
}

// Sums lane by lane, in double.
struct LaneSums {
  vd part[kLanes / kWide];
  LaneSums() {
    for (vd& p : part) p = zero();
  }
  void add_all(const float* values) {
    for (int i = 0; i < kLanes / kWide; i++) part[i] = add(part[i], widen(values + i * kWide));
  }
  double total() const {
    double lane[kLanes], sum = 0;
    for (int i = 0; i < kLanes / kWide; i++) store(lane + i * kWide, part[i]);
    for (double value : lane) sum += value;
    return sum;
  }
};

template <class T>
void allow(const void* row, int64_t vocab, const uint32_t* allowed, float* out) {
  over(static_cast<const T*>(row), 0, vocab, [&](int64_t at, const Lanes& x) {
    const uint32_t here = allowed[at / 32] >> at % 32;
    float kept[kLanes];
    for (int i = 0; i < kParts; i++) store(kept + i * VL, keep(here >> (i * VL), x.part[i]));
    const int64_t left = vocab - at;
    memcpy(out + at, kept, (left < kLanes ? left : kLanes) * sizeof(float));
    return true;
  });
}

template <class T>
float peak(const void* row, int64_t vocab, float* maxima) {
  auto logits = static_cast<const T*>(row);
  uint32_t wrong = 0;
  vf best = set1(-INFINITY);
  for (int64_t block = 0; block < vocab; block += kBlock) {
    Lanes most;
    for (vf& part : most.part) part = set1(-INFINITY);
    over(logits, block, block + kBlock < vocab ? block + kBlock : vocab, [&](int64_t, const Lanes& x) {
      for (int i = 0; i < kParts; i++) {
        wrong |= unordered(x.part[i]);
        most.part[i] = max(most.part[i], x.part[i]);
      }
      return true;
    });
    for (int i = 0; i < kParts; i++) {
      best = max(best, most.part[i]);
      if (maxima) store(maxima + block / kBlock * kLanes + i * VL, most.part[i]);
    }
  }
  return wrong ? NAN : top(best);
}

template <class T>
int64_t first_of(const void* row, int64_t vocab, float value) {
  int64_t found = 0;
  over(static_cast<const T*>(row), 0, vocab, [&](int64_t at, const Lanes& x) {
    uint32_t here = bits([&](int i) { return at_most(set1(value), x.part[i]); });
    if (here) found = at + __builtin_ctz(here);
    return here == 0;
  });
  return found;
}

template <class T>
void sums(const void* row, int64_t vocab, const Depths& depths, double* out) {
  for (int64_t block = 0; block < vocab; block += kBlock) {
    LaneSums sum;
    over(static_cast<const T*>(row), block, block + kBlock < vocab ? block + kBlock : vocab,
         [&](int64_t, const Lanes& x) {
           float weight[kLanes];
           weights_of(depths_of(x, depths), depths, weight);
           sum.add_all(weight);
           return true;
         });
    out[block / kBlock] = sum.total();
  }
}

template <class T>
void weights(const void* row, int64_t begin, int64_t end, const Depths& depths, float* out) {
  over(static_cast<const T*>(row), begin, end, [&](int64_t at, const Lanes& x) {
    float weight[kLanes];
    weights_of(depths_of(x, depths), depths, weight);
    for (int64_t i = 0; i < kLanes && at + i < end; i++) out[at + i - begin] = weight[i];
    return true;
  });
}

template <class T>
void buckets(const void* row, int64_t vocab, const Depths& depths, int used, Buckets* out) {
  out->used = used;
  memset(out->count, 0, used * sizeof *out->count);
  memset(out->mass, 0, used * sizeof *out->mass);
  const vf far = set1(float(used - 1) / kStep), deepest = set1(depths.deepest);
  LaneSums tail;
  int64_t tail_count = 0;
  over(static_cast<const T*>(row), 0, vocab, [&](int64_t, const Lanes& x) {
    Lanes d = depths_of(x, depths);
    uint32_t some = bits([&](int i) { return at_most(d.part[i], deepest); });
    if (some == 0) return true;
    uint32_t near = some & bits([&](int i) { return below(d.part[i], far); });
    float depth[kLanes], weight[kLanes], deep[kLanes];
    weights_of(d, depths, weight);
    if (near != some) {
      for (int i = 0; i < kParts; i++)
        store(deep + i * VL, zero_above(load(weight + i * VL), far, d.part[i]));
      tail.add_all(deep);
      tail_count += __builtin_popcount(some ^ near);
    }
    if (near == 0) return true;
    for (int i = 0; i < kParts; i++) store(depth + i * VL, d.part[i]);
    for (; near; near &= near - 1) {
      int lane = __builtin_ctz(near), bucket = int(depth[lane] * kStep);
      out->count[bucket]++;
      out->mass[bucket] += weight[lane];
    }
    return true;
  });
  out->count[used - 1] = tail_count;
  out->mass[used - 1] = tail.total();
}

template <class T>
int64_t collect(const void* row, int64_t vocab, const Depths& depths, float low, float high,
                Candidate* out) {
  int64_t count = 0;
  const vf from = set1(low), to = set1(high), deepest = set1(depths.deepest);
  over(static_cast<const T*>(row), 0, vocab, [&](int64_t at, const Lanes& x) {
    Lanes d = depths_of(x, depths);
    uint32_t found = bits([&](int i) {
      return at_most(from, d.part[i]) & below(d.part[i], to) & at_most(d.part[i], deepest);
    });
    if (found == 0) return true;
    float depth[kLanes], weight[kLanes];
    weights_of(d, depths, weight);
    for (int i = 0; i < kParts; i++) store(depth + i * VL, d.part[i]);
    for (; found; found &= found - 1) {
      int lane = __builtin_ctz(found);
      out[count++] = {depth[lane], weight[lane], int32_t(at + lane)};
    }
    return true;
  });
  return count;
}

template <class T>
int64_t at_least(const void* row, int64_t vocab, float value, int32_t* out) {
  int64_t count = 0;
  const vf least = set1(value);
  over(static_cast<const T*>(row), 0, vocab, [&](int64_t at, const Lanes& x) {
    uint32_t found = bits([&](int i) { return at_most(least, x.part[i]); });
    // What is missing at the end reads as -infinity, which may be the value itself.
    if (vocab - at < kLanes) found &= (1u << (vocab - at)) - 1;
    if (out == nullptr) {
      count += __builtin_popcount(found);
      return true;
    }
    for (; found; found &= found - 1) out[count++] = int32_t(at + __builtin_ctz(found));
    return true;
  });
  return count;
}

template <class T>
constexpr Passes make_passes() {
  return {allow<T>,   peak<T>,    first_of<T>, sums<T>,
          weights<T>, buckets<T>, collect<T>,  at_least<T>};
}

}  // namespace
}  // namespace shoal
