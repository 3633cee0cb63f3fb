// The gated delta rule: a state [key_dim, value_dim] for each head, whose columns are independent.
// A tile of columns stays in the first cache while all rows of a chunk pass over it, once each: what
// the next row's key finds in the state is added up while this row's key is written.
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

#include "ops/numbers.h"
#include "recurrence/chunks.h"
#include "vec.h"

namespace shoal {
namespace {

constexpr int64_t kColumns = 32;  // of a tile

// Rows of one head, as float32: [rows, key_dim] each.
struct DeltaRows {
  int64_t dim;
  std::vector<float> query, key, keep, found_by;  // found_by: keep * key

  explicit DeltaRows(int64_t dim)
      : dim(dim), query(kPiece * dim), key(kPiece * dim), keep(kPiece * dim), found_by(kPiece * dim) {}
};

template <class T>
float length_of(const T* x, int64_t n) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t i = 0; i < n; i++) squares += get(x[i]) * get(x[i]);
  return std::sqrt(squares + 1e-6f);
}

template <class T>
void make_ready(const ShoalDeltaRule& c, int64_t row, int64_t head, float* query, float* key,
                float* keep, float* found_by) {
  int64_t dim = c.key_dim, shared = head / (c.heads / c.key_heads);
  const T* q = static_cast<const T*>(c.query) + row * c.query_row + shared * dim;
  const T* k = static_cast<const T*>(c.key) + row * c.key_row + shared * dim;
  const float* kept = c.keep + (row * c.heads + head) * c.keep_dim;
  float of_query = 1.0f / std::sqrt(float(dim)), of_key = 1.0f;
  if (c.normalize) of_query /= length_of(q, dim), of_key /= length_of(k, dim);
  int64_t step = c.keep_dim > 1;
#pragma omp simd
  for (int64_t i = 0; i < dim; i++) {
    query[i] = get(q[i]) * of_query;
    key[i] = get(k[i]) * of_key;
    keep[i] = kept[i * step];
    found_by[i] = keep[i] * key[i];
  }
}

// found = by^T state, for N vectors of columns.
template <int N>
void find(const float* state, int64_t row, int64_t dim, const float* by, vf* found) {
  vf sums[N];
  for (int j = 0; j < N; j++) sums[j] = set1(0);
  for (int64_t i = 0; i < dim; i++)
    for (int j = 0; j < N; j++) sums[j] = fma(set1(by[i]), load(state + i * row + j * VL), sums[j]);
  for (int j = 0; j < N; j++) found[j] = sums[j];
}

// to = keep * from + key change^T; out = query^T to; and, for the next row, found = next^T to.
template <int N, bool Next>
void step(const float* from, float* to, int64_t row, const float* keep, const float* key,
          const float* query, const float* next, int64_t dim, const vf* change, vf* out, vf* found) {
  vf made[N], sums[N], more[N];
  for (int j = 0; j < N; j++) sums[j] = more[j] = set1(0), made[j] = change[j];
  for (int64_t i = 0; i < dim; i++) {
    vf k = set1(key[i]), q = set1(query[i]), g = set1(keep[i]);
    for (int j = 0; j < N; j++) {
      vf s = fma(g, load(from + i * row + j * VL), k * made[j]);
      store(to + i * row + j * VL, s);
      sums[j] = fma(q, s, sums[j]);
      if (Next) more[j] = fma(set1(next[i]), s, more[j]);
    }
  }
  for (int j = 0; j < N; j++) {
    out[j] = sums[j];
    if (Next) found[j] = more[j];
  }
}

template <class T>
struct DeltaHead {
  const ShoalDeltaRule& c;
  int64_t head;

  const T* value(int64_t row) const {
    return static_cast<const T*>(c.value) + row * c.value_row + head * c.value_dim;
  }
  T* out(int64_t row) const { return static_cast<T*>(c.out) + (row * c.heads + head) * c.value_dim; }
  float* state(int64_t slot) const {
    return c.states + (slot * c.heads + head) * c.key_dim * c.value_dim;
  }

  // change = beta (value - found), for `width` columns from `column`.
  template <int N>
  void differ(int64_t row, int64_t column, int64_t width, const vf* found, vf* change) const {
    float was[N * VL], is[N * VL] = {};
    for (int j = 0; j < N; j++) store(was + j * VL, found[j]);
    const T* v = value(row) + column;
    float beta = c.beta[row * c.heads + head];
    for (int64_t j = 0; j < width; j++) is[j] = (get(v[j]) - was[j]) * beta;
    for (int j = 0; j < N; j++) change[j] = load(is + j * VL);
  }

  template <int N>
  void write(int64_t row, int64_t column, int64_t width, const vf* sums) const {
    float made[N * VL];
    for (int j = 0; j < N; j++) store(made + j * VL, sums[j]);
    T* to = out(row) + column;
    for (int64_t j = 0; j < width; j++) put(to + j, made[j]);
  }

  // One row on N vectors of columns, where they lie.
  template <int N>
  void single(const Chunk& chunk, const DeltaRows& rows, int64_t column) const {
    const float* from = state(chunk.source) + column;
    vf found[N], change[N], sums[N];
    find<N>(from, c.value_dim, c.key_dim, rows.found_by.data(), found);
    differ<N>(chunk.begin, column, N * VL, found, change);
    step<N, false>(from, state(chunk.target) + column, c.value_dim, rows.keep.data(), rows.key.data(),
                   rows.query.data(), nullptr, c.key_dim, change, sums, found);
    write<N>(chunk.begin, column, N * VL, sums);
  }

  // Rows first .. last on at most kColumns columns, in a copy of them.
  void tile(const DeltaRows& rows, int64_t first, int64_t last, const float* from, float* to,
            int64_t column, int64_t width, float* copy) const {
    constexpr int N = kColumns / VL;
    int64_t dim = c.key_dim, bytes = width * int64_t(sizeof(float));
    if (width < kColumns) memset(copy, 0, size_t(dim * kColumns) * sizeof(float));
    for (int64_t i = 0; i < dim; i++)
      memcpy(copy + i * kColumns, from + i * c.value_dim + column, size_t(bytes));
    vf found[N], change[N], sums[N];
    find<N>(copy, kColumns, dim, rows.found_by.data(), found);
    for (int64_t row = first; row < last; row++) {
      int64_t at = (row - first) * dim;
      const float *keep = &rows.keep[at], *key = &rows.key[at], *query = &rows.query[at];
      differ<N>(row, column, width, found, change);
      if (row + 1 < last)
        step<N, true>(copy, copy, kColumns, keep, key, query, &rows.found_by[at + dim], dim, change, sums, found);
      else
        step<N, false>(copy, copy, kColumns, keep, key, query, nullptr, dim, change, sums, found);
      write<N>(row, column, width, sums);
    }
    for (int64_t i = 0; i < dim; i++)
      memcpy(to + i * c.value_dim + column, copy + i * kColumns, size_t(bytes));
  }

  void run(const Chunk& chunk, int64_t begin, int64_t end, DeltaRows& rows, float* copy) const {
    int64_t dim = c.key_dim;
    const float* from = state(chunk.source);
    for (int64_t first = chunk.begin; first < chunk.end; first += kPiece) {
      int64_t last = std::min(first + kPiece, chunk.end), column = begin;
      for (int64_t row = first; row < last; row++) {
        int64_t at = (row - first) * dim;
        make_ready<T>(c, row, head, &rows.query[at], &rows.key[at], &rows.keep[at], &rows.found_by[at]);
      }
      if (chunk.end - chunk.begin == 1) {
        for (; column + 8 * VL <= end; column += 8 * VL) single<8>(chunk, rows, column);
        for (; column + 4 * VL <= end; column += 4 * VL) single<4>(chunk, rows, column);
      }
      for (; column < end; column += kColumns)
        tile(rows, first, last, from, state(chunk.target), column, std::min(kColumns, end - column), copy);
      from = state(chunk.target);
    }
  }
};

template <class T>
void delta_rule(const ShoalDeltaRule& c) {
  int64_t tiles = (c.value_dim + kColumns - 1) / kColumns;
  int64_t parts = parts_of_head(*c.chunks, c.heads, tiles, c.threads);
  each_chunk(*c.chunks, c.heads * parts, c.threads, [&](const Chunk& chunk, int64_t part) {
    thread_local std::vector<float> copy;
    thread_local DeltaRows rows(0);
    if (rows.dim != c.key_dim) rows = DeltaRows(c.key_dim), copy.resize(size_t(c.key_dim * kColumns));
    int64_t one = part % parts;
    int64_t begin = one * tiles / parts * kColumns;
    int64_t end = std::min<int64_t>((one + 1) * tiles / parts * kColumns, c.value_dim);
    DeltaHead<T>{c, part / parts}.run(chunk, begin, end, rows, copy.data());
  });
}

}  // namespace
}  // namespace shoal
