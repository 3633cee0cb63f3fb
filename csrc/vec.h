// Vectors of float32 as wide as the instruction set of the file that includes this, and the few
// operations the kernels need. Everything is in an unnamed namespace: each instruction set's file
// must keep its own copy.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace shoal {
namespace {

#if defined(__AVX512F__)
constexpr int VL = 16;
typedef __m512 vf;
inline vf set1(float x) { return _mm512_set1_ps(x); }
inline vf load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline float sum(vf a) { return _mm512_reduce_add_ps(a); }
inline float top(vf a) { return _mm512_reduce_max_ps(a); }
// The first n lanes of a (all, if there are fewer), the others `rest`.
inline vf first(vf a, int n, vf rest) {
  return _mm512_mask_blend_ps(n >= VL ? 0xffff : (__mmask16)((1u << n) - 1), rest, a);
}
inline vf exp2_of(vf n_plus_magic, vf p) {
  __m512i e = _mm512_slli_epi32(_mm512_castps_si512(n_plus_magic), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), e));
}
inline vf low_half(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline vf high_half(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
}
inline __m512i load_pairs(const void* p) { return _mm512_loadu_si512(p); }
inline __m256i narrow(vf x) {  // to bfloat16, to nearest, ties to even
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  __m512i b = _mm512_castps_si512(x);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  b = _mm512_add_epi32(b, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16));
#endif
}
inline void store_bf16(uint16_t* p, vf x) { _mm256_storeu_si256((__m256i*)p, narrow(x)); }
inline vf load_bf16(const uint16_t* p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
#else
constexpr int VL = 8;
typedef __m256 vf;
inline vf set1(float x) { return _mm256_set1_ps(x); }
inline vf load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline float sum(vf a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float top(vf a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
inline vf first(vf a, int n, vf rest) {
  __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i in = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes);
  return _mm256_blendv_ps(rest, a, _mm256_castsi256_ps(in));
}
inline vf exp2_of(vf n_plus_magic, vf p) {
  __m256i e = _mm256_slli_epi32(_mm256_castps_si256(n_plus_magic), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), e));
}
inline vf low_half(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline vf high_half(__m256i pairs) {
  return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff0000)));
}
inline __m256i load_pairs(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline void store_bf16(uint16_t* p, vf x) {
  __m256i b = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
  b = _mm256_add_epi32(b, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  b = _mm256_srli_epi32(b, 16);
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(b, b), 0x08);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(packed));
}
inline vf load_bf16(const uint16_t* p) {
  __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
#endif

// 2^x for x <= 0; below -126 about 2^-126; NaN stays NaN. Polynomials of least relative error for
// 2^f on [-1/2, 1/2], fitted by iterated least squares: degree 6 errs by 2e-9, degree 3 by 7.5e-5, a
// fiftieth of a bfloat16's step.
template <int Degree>
inline vf exp2(vf x) {
  const vf magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  x = max(set1(-126.0f), x);  // in this order: NaN passes
  vf n = x + magic;
  vf f = x - (n - magic);
  vf p;
  if constexpr (Degree == 6) {
    p = set1(1.534581201e-4f);
    p = fma(p, f, set1(1.339993122e-3f));
    p = fma(p, f, set1(9.618488957e-3f));
    p = fma(p, f, set1(5.550328777e-2f));
    p = fma(p, f, set1(2.402264689e-1f));
    p = fma(p, f, set1(6.931472057e-1f));
    p = fma(p, f, set1(1.0f));
  } else {
    p = set1(5.517166904e-2f);
    p = fma(p, f, set1(2.426111222e-1f));
    p = fma(p, f, set1(6.932609855e-1f));
    p = fma(p, f, set1(9.999280735e-1f));
  }
  return exp2_of(n, p);
}

}  // namespace
}  // namespace shoal
