// Matrix products on vector registers: left operands row by row, right operands from the KV pool's
// blocks as they lie. See `kernel.h` for what a unit is.
#pragma once
#include <utility>

#include "attention/kernel.h"

namespace shoal {
namespace {

#define SHOAL_INLINE inline __attribute__((always_inline))

// R rows of left operands. Three share a pointer: with one, their distances would take more registers
// than there are.
template <class A, int R>
class LeftRows {
 public:
  LeftRows(const A* a, int64_t lda) : lda_(lda) {
    for (int i = 0; i < kPointers; i++) {
      at_[i] = a + 3 * i * lda;
      asm("" : "+r"(at_[i]));  // the compiler must not find out that one would do
    }
  }
  template <int Row>
  SHOAL_INLINE const A* row() const {
    return at_[Row / 3] + Row % 3 * lda_;
  }
  SHOAL_INLINE void advance(int by) {
    for (int i = 0; i < kPointers; i++) at_[i] += by;
  }

 private:
  static constexpr int kPointers = (R + 2) / 3;
  const A* at_[kPointers];
  int64_t lda_;
};

// acc[v] += one step (a pair or a single) of a row times NV vectors of columns. `kRows` rows times two
// vectors fill the registers; the more rows, the less it weighs to load and widen the columns.
struct PairsByDotProduct {  // bfloat16 x bfloat16, AVX512-BF16
  using A = uint16_t;
  using B = uint16_t;
  static constexpr int pack = 2;
  static constexpr int kRows = 6;  // x 2 vectors of columns
#if defined(__AVX512BF16__)
  template <int NV>
  struct Columns {
    __m512bh pairs[NV];
    SHOAL_INLINE explicit Columns(const B* b) {
      for (int v = 0; v < NV; v++) pairs[v] = (__m512bh)load_pairs(b + v * VL * 2);
    }
  };
  template <int NV>
  static SHOAL_INLINE void add(vf* acc, const A* a, const Columns<NV>& columns) {
    int32_t pair;
    memcpy(&pair, a, 4);
    __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
    for (int v = 0; v < NV; v++) acc[v] = _mm512_dpbf16_ps(acc[v], left, columns.pairs[v]);
  }
#endif
};

struct PairsByFma {  // float32 x bfloat16, the pairs widened in registers
  using A = float;
  using B = uint16_t;
  static constexpr int pack = 2;
  static constexpr int kRows = VL == 16 ? 12 : 4;
  template <int NV>
  struct Columns {
    vf low[NV], high[NV];
    SHOAL_INLINE explicit Columns(const B* b) {
      for (int v = 0; v < NV; v++) {
        auto pairs = load_pairs(b + v * VL * 2);
        low[v] = low_half(pairs), high[v] = high_half(pairs);
      }
    }
  };
  template <int NV>
  static SHOAL_INLINE void add(vf* acc, const A* a, const Columns<NV>& columns) {
    vf even = set1(a[0]), odd = set1(a[1]);
    for (int v = 0; v < NV; v++) acc[v] = fma(even, columns.low[v], acc[v]);
    for (int v = 0; v < NV; v++) acc[v] = fma(odd, columns.high[v], acc[v]);
  }
};

struct SinglesByFma {  // float32 x float32
  using A = float;
  using B = float;
  static constexpr int pack = 1;
  static constexpr int kRows = VL == 16 ? 12 : 4;
  template <int NV>
  struct Columns {
    vf at[NV];
    SHOAL_INLINE explicit Columns(const B* b) {
      for (int v = 0; v < NV; v++) at[v] = load(b + v * VL);
    }
  };
  template <int NV>
  static SHOAL_INLINE void add(vf* acc, const A* a, const Columns<NV>& columns) {
    vf left = set1(a[0]);
    for (int v = 0; v < NV; v++) acc[v] = fma(left, columns.at[v], acc[v]);
  }
};

// While a product is computed, fetches the lines of blocks that are needed next into the second cache,
// two at a step: all of a block, unless it is larger than the block that is multiplied.
template <class B>
class Fetching {
 public:
  // Of each block the `pass`-th of some shares, in so many steps.
  Fetching(const Ahead<B>& ahead, int pass, int passes, int steps)
      : ahead_(ahead), by_((ahead.bytes / passes + steps - 1) / steps), skip_(pass * by_ * steps) {}
  SHOAL_INLINE void block(int k) {
    // After the last it is asked for again: that costs no more than a second loop without it.
    at_ = reinterpret_cast<const char*>(ahead_.blocks[std::min(k, ahead_.num - 1)]) + skip_;
  }
  SHOAL_INLINE void step() {
    _mm_prefetch(at_, _MM_HINT_T1);
    _mm_prefetch(at_ + 64, _MM_HINT_T1);
    at_ += by_;
  }

 private:
  const Ahead<B> ahead_;
  const int64_t by_, skip_;
  const char* at_;
};
struct NoFetching {
  SHOAL_INLINE void block(int) {}
  SHOAL_INLINE void step() {}
};

template <class Step>
struct VectorUnit {
  using A = typename Step::A;
  using B = typename Step::B;
  static constexpr int pack = Step::pack;
  static constexpr int kRows = Step::kRows;
  static constexpr int kSubRows = 12;  // rows whose scores are kept at a time
  static constexpr int kPadRows = 1;
  static constexpr bool kOverlaps = false;

  static void begin() {}
  static void end() {}

  // c[rows][width] = sum over blocks of a[rows][steps * pack] x b[steps][width][pack].
  static void product(const A* a, int64_t lda, int rows, const B* const* blocks, int num_blocks,
                      int steps, int64_t ldb, int column, int width, float* c, int64_t ldc,
                      const Ahead<B>& ahead) {
    Right right{blocks, num_blocks, steps, ldb, column};
    const int passes = (width + 2 * VL - 1) / (2 * VL);
    for (int pass = 0; pass < passes; pass++, width -= 2 * VL, right.column += 2 * VL, c += 2 * VL)
      if (ahead.num > 0)
        columns(a, lda, rows, right, width > VL, c, ldc, Fetching<B>(ahead, pass, passes, steps));
      else
        columns(a, lda, rows, right, width > VL, c, ldc, NoFetching());
  }

 private:
  struct Right {
    const B* const* blocks;
    int num_blocks, steps;
    int64_t ldb;
    int column;
  };

  // One or two vectors of columns.
  template <class Fetch>
  static void columns(const A* a, int64_t lda, int rows, const Right& right, bool two, float* c,
                      int64_t ldc, Fetch fetch) {
    int r = 0;
    if (rows >= kRows) {
      (two ? tile<kRows, 2, Fetch> : tile<kRows, 1, Fetch>)(a, lda, right, c, ldc, fetch);
      r = kRows;
    }
    for (; r + kRows <= rows; r += kRows)
      (two ? tile<kRows, 2, NoFetching> : tile<kRows, 1, NoFetching>)(a + r * lda, lda, right,
                                                                     c + r * ldc, ldc, {});
    if (r == 0)
      rest<kRows - 1>(rows, two, a, lda, right, c, ldc, fetch);
    else if (r < rows)
      rest<kRows - 1>(rows - r, two, a + r * lda, lda, right, c + r * ldc, ldc, NoFetching());
  }

  template <int R, class Fetch>
  static void rest(int rows, bool two, const A* a, int64_t lda, const Right& right, float* c,
                   int64_t ldc, Fetch fetch) {
    if constexpr (R > 0) {
      if (rows == R)
        (two ? tile<R, 2, Fetch> : tile<R, 1, Fetch>)(a, lda, right, c, ldc, fetch);
      else
        rest<R - 1>(rows, two, a, lda, right, c, ldc, fetch);
    }
  }

  template <int R, int NV, class Fetch>
  static void tile(const A* a, int64_t lda, const Right& right, float* c, int64_t ldc, Fetch fetch) {
    tile_of<NV>(a, lda, right, c, ldc, fetch, std::make_integer_sequence<int, R>{});
  }

  // `Row`: 0 to R - 1, written out, since in a loop over them the compiler keeps `acc` in memory.
  template <int NV, class Fetch, int... Row>
  static SHOAL_INLINE void tile_of(const A* a, int64_t lda, const Right& right, float* c, int64_t ldc,
                                   Fetch fetch, std::integer_sequence<int, Row...>) {
    vf acc[sizeof...(Row) * NV];
    ((acc[Row * NV] = set1(0), acc[Row * NV + NV - 1] = set1(0)), ...);
    LeftRows<A, sizeof...(Row)> left(a, lda);
    for (int k = 0; k < right.num_blocks; k++) {
      const B* b = right.blocks[k] + right.column * pack;
      fetch.block(k);
      for (int s = 0; s < right.steps; s++, left.advance(pack), b += right.ldb) {
        typename Step::template Columns<NV> columns(b);
        fetch.step();
        (Step::template add<NV>(acc + Row * NV, left.template row<Row>(), columns), ...);
      }
    }
    ((store(c + Row * ldc, acc[Row * NV]), store(c + Row * ldc + (NV - 1) * VL, acc[Row * NV + NV - 1])), ...);
  }
};

}  // namespace
}  // namespace shoal
