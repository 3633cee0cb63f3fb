// Mamba-2's recurrence: a state [dim, state_dim] for each head, whose rows are independent. A row, or
// N vectors of it, stays in registers while all rows of a chunk pass over it.
#pragma once
#include <cstring>
#include <vector>

#include "ops/numbers.h"
#include "recurrence/chunks.h"
#include "vec.h"

namespace shoal {
namespace {

// Rows of one head, as float32. B and C are [rows, width], zeros behind the state's dimension.
struct SpaceRows {
  int64_t dim, width;
  std::vector<float> b, c, x, out;

  SpaceRows(int64_t dim, int64_t width)
      : dim(dim), width(width), b(kPiece * width), c(kPiece * width), x(kPiece * dim), out(kPiece * dim) {}
};

inline vf load_first(const float* p, int64_t n) {
  if (n >= VL) return load(p);
  float all[VL] = {};
  if (n > 0) memcpy(all, p, size_t(n) * sizeof(float));
  return load(all);
}
inline void store_first(float* p, vf x, int64_t n) {
  if (n >= VL) return store(p, x);
  float all[VL];
  store(all, x);
  if (n > 0) memcpy(p, all, size_t(n) * sizeof(float));
}

template <class T>
struct SpaceHead {
  const ShoalStateSpace& c;
  int64_t head;

  float* state(int64_t slot) const { return c.states + (slot * c.heads + head) * c.dim * c.state_dim; }

  // N vectors of a state's row i, from number n on.
  template <int N>
  void vectors(SpaceRows& rows, int64_t first, int64_t last, const float* from, float* to, int64_t i,
               int64_t n) const {
    vf s[N];
    for (int j = 0; j < N; j++) s[j] = load_first(from + n + j * VL, c.state_dim - n - j * VL);
    for (int64_t row = first; row < last; row++) {
      int64_t at = row - first, column = row * c.heads + head;
      vf keep = set1(c.keep[column]), write = set1(c.time[column] * rows.x[at * c.dim + i]);
      const float *b = &rows.b[at * rows.width + n], *read = &rows.c[at * rows.width + n];
      vf even = set1(0), odd = set1(0);
      for (int j = 0; j < N; j++) {
        s[j] = fma(keep, s[j], write * load(b + j * VL));
        (j % 2 ? odd : even) = fma(s[j], load(read + j * VL), j % 2 ? odd : even);
      }
      rows.out[at * c.dim + i] += sum(even + odd);
    }
    for (int j = 0; j < N; j++) store_first(to + n + j * VL, s[j], c.state_dim - n - j * VL);
  }

  void make_ready(SpaceRows& rows, int64_t first, int64_t last) const {
    int64_t group = head / (c.heads / c.groups);
    for (int64_t row = first; row < last; row++) {
      int64_t at = row - first;
      const T* b = static_cast<const T*>(c.b) + row * c.b_row + group * c.state_dim;
      const T* read = static_cast<const T*>(c.c) + row * c.c_row + group * c.state_dim;
      const T* x = static_cast<const T*>(c.x) + row * c.x_row + head * c.dim;
      for (int64_t n = 0; n < c.state_dim; n++) {
        rows.b[at * rows.width + n] = get(b[n]);
        rows.c[at * rows.width + n] = get(read[n]);
      }
      for (int64_t n = c.state_dim; n < rows.width; n++) rows.b[at * rows.width + n] = rows.c[at * rows.width + n] = 0;
      for (int64_t i = 0; i < c.dim; i++) {
        rows.x[at * c.dim + i] = get(x[i]);
        rows.out[at * c.dim + i] = c.skip[head] * get(x[i]);
      }
    }
  }

  void run(const Chunk& chunk, int64_t begin, int64_t end, SpaceRows& rows) const {
    const float* from = state(chunk.source);
    for (int64_t first = chunk.begin; first < chunk.end; first += kPiece) {
      int64_t last = std::min(first + kPiece, chunk.end);
      make_ready(rows, first, last);
      for (int64_t i = begin; i < end; i++) {
        const float* row = from + i * c.state_dim;
        float* to = state(chunk.target) + i * c.state_dim;
        int64_t n = 0;
        for (; n + 8 * VL <= rows.width; n += 8 * VL) vectors<8>(rows, first, last, row, to, i, n);
        for (; n < rows.width; n += VL) vectors<1>(rows, first, last, row, to, i, n);
      }
      for (int64_t row = first; row < last; row++) {
        T* out = static_cast<T*>(c.out) + (row * c.heads + head) * c.dim;
        for (int64_t i = begin; i < end; i++) put(out + i, rows.out[(row - first) * c.dim + i]);
      }
      from = state(chunk.target);
    }
  }
};

template <class T>
void state_space(const ShoalStateSpace& c) {
  int64_t parts = parts_of_head(*c.chunks, c.heads, c.dim, c.threads);
  int64_t width = (c.state_dim + VL - 1) / VL * VL;
  each_chunk(*c.chunks, c.heads * parts, c.threads, [&](const Chunk& chunk, int64_t part) {
    thread_local SpaceRows rows(0, 0);
    if (rows.dim != c.dim || rows.width != width) rows = SpaceRows(c.dim, width);
    int64_t one = part % parts;
    SpaceHead<T>{c, part / parts}.run(chunk, one * c.dim / parts, (one + 1) * c.dim / parts, rows);
  });
}

}  // namespace
}  // namespace shoal
