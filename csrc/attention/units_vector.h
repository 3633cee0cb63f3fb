// Matrix products on vector registers: left operands row by row, right operands from the KV pool's
// blocks as they lie. See `kernel.h` for what a unit is.
#pragma once
#include "vec.h"

namespace shoal {
namespace {

// acc[r][v] += one step (a pair or a single) of R rows times NV vectors of columns. `kRows` rows times
// two vectors fill the registers; the more rows, the less it weighs to load and widen the columns.
struct PairsByDotProduct {  // bfloat16 x bfloat16, AVX512-BF16
  using A = uint16_t;
  using B = uint16_t;
  static constexpr int pack = 2;
  static constexpr int kRows = 6;  // x 2 vectors of columns
#if defined(__AVX512BF16__)
  template <int R, int NV>
  static inline void step(vf (&acc)[R][NV], const A* a, int64_t lda, const B* b) {
    __m512bh right[NV];
    for (int v = 0; v < NV; v++) right[v] = (__m512bh)load_pairs(b + v * VL * 2);
    for (int r = 0; r < R; r++) {
      int32_t pair;
      memcpy(&pair, a + r * lda, 4);
      __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
      for (int v = 0; v < NV; v++) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], left, right[v]);
    }
  }
#endif
};

struct PairsByFma {  // float32 x bfloat16, the pairs widened in registers
  using A = float;
  using B = uint16_t;
  static constexpr int pack = 2;
  static constexpr int kRows = VL == 16 ? 12 : 4;
  template <int R, int NV>
  static inline void step(vf (&acc)[R][NV], const A* a, int64_t lda, const B* b) {
    vf low[NV], high[NV];
    for (int v = 0; v < NV; v++) {
      auto pairs = load_pairs(b + v * VL * 2);
      low[v] = low_half(pairs), high[v] = high_half(pairs);
    }
    for (int r = 0; r < R; r++) {
      vf even = set1(a[r * lda]), odd = set1(a[r * lda + 1]);
      for (int v = 0; v < NV; v++) acc[r][v] = fma(odd, high[v], fma(even, low[v], acc[r][v]));
    }
  }
};

struct SinglesByFma {  // float32 x float32
  using A = float;
  using B = float;
  static constexpr int pack = 1;
  static constexpr int kRows = VL == 16 ? 12 : 4;
  template <int R, int NV>
  static inline void step(vf (&acc)[R][NV], const A* a, int64_t lda, const B* b) {
    vf right[NV];
    for (int v = 0; v < NV; v++) right[v] = load(b + v * VL);
    for (int r = 0; r < R; r++) {
      vf left = set1(a[r * lda]);
      for (int v = 0; v < NV; v++) acc[r][v] = fma(left, right[v], acc[r][v]);
    }
  }
};

template <class Step>
struct VectorUnit {
  using A = typename Step::A;
  using B = typename Step::B;
  static constexpr int pack = Step::pack;
  static constexpr int kRows = Step::kRows;
  static constexpr int kSubRows = 12;  // rows whose scores are kept at a time
  static constexpr int kPadRows = 1;

  static void begin() {}
  static void end() {}

  // c[rows][width] = sum over blocks of a[rows][steps * pack] x b[steps][width][pack].
  static void product(const A* a, int64_t lda, int rows, const B* const* blocks, int num_blocks,
                      int steps, int64_t ldb, int column, int width, float* c, int64_t ldc) {
    for (int n = 0; n < width; n += 2 * VL) {
      bool both = width - n > VL;
      int r = 0;
      for (; r + kRows <= rows; r += kRows)
        (both ? tile<kRows, 2> : tile<kRows, 1>)(a + r * lda, lda, blocks, num_blocks, steps, ldb,
                                                  column + n, c + r * ldc + n, ldc);
      if (r < rows)
        rest<kRows - 1>(rows - r, both, a + r * lda, lda, blocks, num_blocks, steps, ldb,
                        column + n, c + r * ldc + n, ldc);
    }
  }

 private:
  template <int R>
  static void rest(int rows, bool both, const A* a, int64_t lda, const B* const* blocks,
                   int num_blocks, int steps, int64_t ldb, int column, float* c, int64_t ldc) {
    if constexpr (R > 0) {
      if (rows == R)
        (both ? tile<R, 2> : tile<R, 1>)(a, lda, blocks, num_blocks, steps, ldb, column, c, ldc);
      else
        rest<R - 1>(rows, both, a, lda, blocks, num_blocks, steps, ldb, column, c, ldc);
    }
  }

  template <int R, int NV>
  static void tile(const A* a, int64_t lda, const B* const* blocks, int num_blocks, int steps,
                   int64_t ldb, int column, float* c, int64_t ldc) {
    vf acc[R][NV];
    for (int r = 0; r < R; r++)
      for (int v = 0; v < NV; v++) acc[r][v] = set1(0);
    for (int k = 0; k < num_blocks; k++) {
      const B* b = blocks[k] + column * pack;
      for (int s = 0; s < steps; s++, a += pack, b += ldb) Step::template step<R, NV>(acc, a, lda, b);
    }
    for (int r = 0; r < R; r++)
      for (int v = 0; v < NV; v++) store(c + r * ldc + v * VL, acc[r][v]);
  }
};

}  // namespace
}  // namespace shoal
