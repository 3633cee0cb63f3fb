// Matrix products on Intel's AMX tiles. See `kernel.h` for what a unit is.
//
// A tile of left operands is 16 rows x 32 bfloat16; one of right operands 16 pairs x 16 columns; one of
// results 16 x 16 float32 (Intel 64 and IA-32 Architectures SDM, TDPBF16PS).
#pragma once
#include "vec.h"

namespace shoal {
namespace {

struct AmxUnit {
  using A = uint16_t;
  using B = uint16_t;
  static constexpr int pack = 2;
  static constexpr int kSubRows = 32;
  static constexpr bool kOverlaps = true;
  static constexpr int kPadRows = 16;  // rows are read and results written in sixteens

  static void begin() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; t++) config.row_bytes[t] = 64, config.rows[t] = 16;
    _tile_loadconfig(&config);
  }
  static void end() { _tile_release(); }

  // As VectorUnit's; `steps` is a multiple of 16.
  static void product(const A* a, int64_t lda, int rows, const B* const* blocks, int num_blocks,
                      int steps, int64_t ldb, int column, int width, float* c, int64_t ldc,
                      const Ahead<B>&) {
    int r = 0;
    for (; rows - r > 16; r += 32)
      for (int n = 0; n < width; n += 32)
        (width - n > 16 ? two_by_two : two_by_one)(a + r * lda, lda, blocks, num_blocks, steps, ldb,
                                                   column + n, c + r * ldc + n, ldc);
    if (r < rows)
      for (int n = 0; n < width;) {
        int left = width - n;
        auto tile = left > 48 ? one_by_four : left > 16 ? one_by_two : one_by_one;
        tile(a + r * lda, lda, blocks, num_blocks, steps, ldb, column + n, c + r * ldc + n, ldc);
        n += left > 48 ? 64 : left > 16 ? 32 : 16;
      }
  }

 private:
  // Into the nearest cache, while the block before it is multiplied.
  static inline void fetch(const B* b, int steps, int64_t ldb) {
    for (int s = 0; s < steps; s++, b += ldb) {
      _mm_prefetch((const char*)b, _MM_HINT_T0);
      _mm_prefetch((const char*)b + 64, _MM_HINT_T0);
    }
  }
#define SHOAL_TILES(body)                                                  \
  for (int k = 0; k < num_blocks; k++) {                                   \
    const B* b = blocks[k] + column * 2;                                   \
    if (k + 1 < num_blocks) fetch(blocks[k + 1] + column * 2, steps, ldb);  \
    for (int s = 0; s < steps; s += 16, a += 32, b += 16 * ldb) { body }   \
  }

  static void two_by_two(const A* a, int64_t lda, const B* const* blocks, int num_blocks, int steps,
                         int64_t ldb, int column, float* c, int64_t ldc) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    SHOAL_TILES(_tile_loadd(6, b, ldb * 2); _tile_loadd(4, a, lda * 2); _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, b + 32, ldb * 2); _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, a + 16 * lda, lda * 2); _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);)
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
    _tile_stored(2, c + 16 * ldc, ldc * 4);
    _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
  }

  static void two_by_one(const A* a, int64_t lda, const B* const* blocks, int num_blocks, int steps,
                         int64_t ldb, int column, float* c, int64_t ldc) {
    _tile_zero(0);
    _tile_zero(2);
    SHOAL_TILES(_tile_loadd(6, b, ldb * 2); _tile_loadd(4, a, lda * 2); _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, a + 16 * lda, lda * 2); _tile_dpbf16ps(2, 5, 6);)
    _tile_stored(0, c, ldc * 4);
    _tile_stored(2, c + 16 * ldc, ldc * 4);
  }

  static void one_by_four(const A* a, int64_t lda, const B* const* blocks, int num_blocks,
                          int steps, int64_t ldb, int column, float* c, int64_t ldc) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    SHOAL_TILES(_tile_loadd(4, a, lda * 2); _tile_loadd(5, b, ldb * 2); _tile_dpbf16ps(0, 4, 5);
                _tile_loadd(6, b + 32, ldb * 2); _tile_dpbf16ps(1, 4, 6);
                _tile_loadd(7, b + 64, ldb * 2); _tile_dpbf16ps(2, 4, 7);
                _tile_loadd(5, b + 96, ldb * 2); _tile_dpbf16ps(3, 4, 5);)
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
    _tile_stored(2, c + 32, ldc * 4);
    _tile_stored(3, c + 48, ldc * 4);
  }

  static void one_by_two(const A* a, int64_t lda, const B* const* blocks, int num_blocks, int steps,
                         int64_t ldb, int column, float* c, int64_t ldc) {
    _tile_zero(0);
    _tile_zero(1);
    SHOAL_TILES(_tile_loadd(4, a, lda * 2); _tile_loadd(6, b, ldb * 2); _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, b + 32, ldb * 2); _tile_dpbf16ps(1, 4, 7);)
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
  }

  static void one_by_one(const A* a, int64_t lda, const B* const* blocks, int num_blocks, int steps,
                         int64_t ldb, int column, float* c, int64_t ldc) {
    _tile_zero(0);
    SHOAL_TILES(_tile_loadd(4, a, lda * 2); _tile_loadd(6, b, ldb * 2); _tile_dpbf16ps(0, 4, 6);)
    _tile_stored(0, c, ldc * 4);
  }
#undef SHOAL_TILES
};

}  // namespace
}  // namespace shoal
