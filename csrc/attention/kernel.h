// Segment attention over a plan: one task is one row tile, one KV head, some or all of its keys.
//
// A task packs its queries once and keeps a running softmax (Milakov and Gimelshein, 2018; Dao et al.,
// FlashAttention, 2022) over all of the tile's segments, shared ones and each row's own alike, so
// nothing is merged unless a tile was split over keys. A *unit* does the two matrix products:
//
//   A, B        types of left operands (queries, probabilities) and of the KV pool
//   pack        elements of B that lie together (2: pairs)
//   kSubRows    query rows whose scores are kept at a time
//   kPadRows    rows are read, and scratch results written, in multiples of this
//   product     c[rows][width] = a x the columns [column, column + width) of some blocks
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>

#include "attention/plan.h"
#include "vec.h"

namespace shoal {
namespace {

constexpr int kChunk = 256;  // keys whose scores are kept at a time
constexpr int kChunkBlocks = kChunk / SHOAL_BLOCK;
constexpr float kLog2e = 1.4426950408889634f;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Memory that starts on a cache line; zeroed.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n) : data_(static_cast<T*>(::operator new(n * sizeof(T), kAlign))) {
    memset(static_cast<void*>(data_), 0, n * sizeof(T));
  }
  ~Buffer() { ::operator delete(data_, kAlign); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() { return data_; }

 private:
  static constexpr std::align_val_t kAlign{64};
  T* data_;
};

inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
inline vf load_as_float(const float* p) { return load(p); }
inline vf load_as_float(const uint16_t* p) { return load_bf16(p); }
inline void store_from_float(float* p, vf x) { store(p, x); }
inline void store_from_float(uint16_t* p, vf x) { store_bf16(p, x); }

template <class From, class To>
inline void copy_row(const From* from, To* to, int n) {
  if constexpr (std::is_same_v<From, To>) {
    memcpy(to, from, n * sizeof(To));
  } else {
    for (int i = 0; i < n; i++) to[i] = to_float(from[i]);
  }
}

template <class Unit>
class Kernel {
  using A = typename Unit::A;
  using B = typename Unit::B;
  static constexpr int kDegree = sizeof(B) == 4 ? 6 : 3;

 public:
  Kernel(const Plan& plan, const ShoalAttention& call)
      : plan_(plan),
        call_(call),
        group_(plan.group()),
        key_dim_(plan.shape.key_dim),
        value_dim_(plan.shape.value_dim),
        out_stride_(round_up(value_dim_, 32)),
        part_size_(int64_t(plan.most_rows) * (out_stride_ + 2)),
        parts_(int64_t(plan.parts) * plan.shape.kv_heads * part_size_),
        done_(std::make_unique<std::atomic<int32_t>[]>(plan.tiles.size() * plan.shape.kv_heads)) {}

  void run() {
    int64_t heads = plan_.shape.kv_heads, tasks = plan_.tasks.size() * heads;
    std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(plan_.shape.threads)
    {
      Scratch scratch(plan_.most_rows, key_dim_, out_stride_);
      Unit::begin();
      for (int64_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        do_task(plan_.tasks[t / heads], t % heads, scratch);
      Unit::end();
    }
  }

 private:
  struct Scratch {
    Scratch(int rows, int key_dim, int64_t out_stride)
        : query(round_up(rows + 32, 32) * int64_t(key_dim)),
          scores(Unit::kSubRows * kChunk + 64),
          weights(Unit::kSubRows * kChunk + 64),
          product(Unit::kSubRows * out_stride + 64),
          out((rows + 32) * out_stride),
          peak(rows + 32),
          total(rows + 32) {}
    Buffer<A> query;       // [rows][key_dim]
    Buffer<float> scores;  // [kSubRows][kChunk]
    Buffer<A> weights;     // [kSubRows][kChunk]
    Buffer<float> product;  // [kSubRows][out_stride]
    Buffer<float> out;      // [rows][out_stride], not yet divided by `total`
    Buffer<float> peak;     // [rows], of the scores times scale * log2(e)
    Buffer<float> total;    // [rows], of the weights
  };

  void do_task(const Task& task, int64_t head, Scratch& s) {
    const Tile& tile = plan_.tiles[task.tile];
    int rows = (tile.row1 - tile.row0) * group_;
    pack_query(tile, head, s.query.get());
    std::fill_n(s.peak.get(), rows, -INFINITY);
    std::fill_n(s.total.get(), rows, 0.0f);
    std::fill_n(s.out.get(), rows * out_stride_, 0.0f);
    for (int p = task.piece0; p < task.piece1; p++) do_piece(plan_.pieces[p], tile, head, s);
    if (tile.parts == 1) {
      write_out(tile, head, s.out.get(), s.total.get());
      return;
    }
    float* part = part_of(tile, head, task.part);
    memcpy(part, s.out.get(), rows * out_stride_ * 4);
    memcpy(part + plan_.most_rows * out_stride_, s.peak.get(), rows * 4);
    memcpy(part + plan_.most_rows * (out_stride_ + 1), s.total.get(), rows * 4);
    auto& done = done_[task.tile * plan_.shape.kv_heads + head];
    if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == tile.parts) merge(tile, head, s);
  }

  void pack_query(const Tile& tile, int64_t head, A* to) {
    auto query = static_cast<const B*>(call_.query);
    for (int row = tile.row0; row < tile.row1; row++)
      for (int g = 0; g < group_; g++, to += key_dim_)
        copy_row(query + (head * group_ + g) * call_.query_head + row * call_.query_row, to, key_dim_);
  }

  void do_piece(const Piece& piece, const Tile& tile, int64_t head, Scratch& s) {
    auto keys = static_cast<const B*>(call_.keys) + head * call_.keys_head;
    auto values = static_cast<const B*>(call_.values) + head * call_.values_head;
    int first = (piece.row0 - tile.row0) * group_, last = (piece.row1 - tile.row0) * group_;
    for (int key0 = piece.key0; key0 < piece.key1; key0 += kChunk) {
      int len = std::min(kChunk, piece.key1 - key0);
      int num_blocks = (len + SHOAL_BLOCK - 1) / SHOAL_BLOCK;
      const B *key_blocks[kChunkBlocks], *value_blocks[kChunkBlocks];
      for (int k = 0; k < num_blocks; k++) {
        int64_t block = piece.blocks[key0 / SHOAL_BLOCK + k];
        key_blocks[k] = keys + block * SHOAL_BLOCK * key_dim_;
        value_blocks[k] = values + block * SHOAL_BLOCK * value_dim_;
      }
      for (int row = first; row < last; row += Unit::kSubRows) {
        int rows = std::min(Unit::kSubRows, last - row);
        // Causal rows may see nothing of this chunk.
        if (visible(piece, row + rows - 1 - first, key0, len) > 0)
          do_chunk(piece, first, row, rows, key0, len, key_blocks, value_blocks, num_blocks, s);
      }
    }
  }

  // How many of the chunk's `len` keys a query row (counted from the piece's first) sees.
  int visible(const Piece& piece, int row, int key0, int len) const {
    return piece.causal ? std::clamp(piece.first_visible + row / group_ - key0, 0, len) : len;
  }

  void do_chunk(const Piece& piece, int first, int row, int rows, int key0, int len,
                const B* const* key_blocks, const B* const* value_blocks, int num_blocks,
                Scratch& s) {
    const A* query = s.query.get() + int64_t(row) * key_dim_;
    float* scores = s.scores.get();
    for (int k = 0; k < num_blocks; k++)
      Unit::product(query, key_dim_, rows, key_blocks + k, 1, key_dim_ / Unit::pack,
                    SHOAL_BLOCK * Unit::pack, 0, SHOAL_BLOCK, scores + k * SHOAL_BLOCK, kChunk);
    alignas(64) float shrink[Unit::kSubRows + VL];
    float* peak = s.peak.get() + row;
    float* total = s.total.get() + row;
    for (int r = 0; r < rows; r++) {
      int seen = visible(piece, row + r - first, key0, len);
      shrink[r] = peak[r];
      weigh(scores + r * kChunk, s.weights.get() + r * kChunk, seen, num_blocks * SHOAL_BLOCK,
            peak[r], total[r]);
    }
    for (int r = 0; r < rows; r += VL)
      store(shrink + r, exp2<6>(load(shrink + r) - load(peak + r)));
    float* product = s.product.get();
    Unit::product(s.weights.get(), kChunk, rows, value_blocks, num_blocks,
                  SHOAL_BLOCK / Unit::pack, int64_t(value_dim_) * Unit::pack, 0, value_dim_,
                  product, out_stride_);
    for (int r = 0; r < rows; r++) {
      float* out = s.out.get() + (row + r) * out_stride_;
      vf factor = set1(shrink[r]);
      for (int d = 0; d < out_stride_; d += VL)
        store(out + d, fma(load(out + d), factor, load(product + r * out_stride_ + d)));
    }
  }

  // One row's softmax weights: weights[j] = 2^(scores[j] * scale * log2(e) - peak), 0 where unseen.
  // Updates the row's peak, and adds its weights to `total` brought to the new peak.
  void weigh(const float* scores, A* weights, int seen, int len, float& peak, float& total) const {
    if (seen == 0) {
      memset(weights, 0, len * sizeof(A));
      return;
    }
    const float scale = call_.scale * kLog2e;
    int whole = seen / VL * VL, rest = seen - whole;
    vf highest = set1(-INFINITY), other = highest;
    int j = 0;
    for (; j + 2 * VL <= whole; j += 2 * VL) {
      highest = max(highest, load(scores + j));
      other = max(other, load(scores + j + VL));
    }
    for (; j < whole; j += VL) highest = max(highest, load(scores + j));
    if (rest) other = max(other, first(load(scores + j), rest, set1(-INFINITY)));
    float old = peak;
    peak = std::max(old, top(max(highest, other)) * scale);
    const vf factor = set1(scale), offset = set1(-peak);
    vf sum0 = set1(0), sum1 = set1(0);
    for (j = 0; j + 2 * VL <= whole; j += 2 * VL) {
      vf p = exp2<kDegree>(fma(load(scores + j), factor, offset));
      vf q = exp2<kDegree>(fma(load(scores + j + VL), factor, offset));
      sum0 = sum0 + p;
      sum1 = sum1 + q;
      store_from_float(weights + j, p);
      store_from_float(weights + j + VL, q);
    }
    for (; j < len; j += VL) {
      vf p = set1(0);
      if (j < seen) {
        p = exp2<kDegree>(fma(load(scores + j), factor, offset));
        if (j + VL > seen) p = first(p, seen - j, set1(0));
      }
      sum0 = sum0 + p;
      store_from_float(weights + j, p);
    }
    total = total * std::exp2(old - peak) + sum(sum0 + sum1);
  }

  float* part_of(const Tile& tile, int64_t head, int part) {
    return parts_.get() + (head * plan_.parts + tile.first_part + part) * part_size_;
  }

  // Brings the parts of a tile together; called by the thread that finished the last.
  void merge(const Tile& tile, int64_t head, Scratch& s) {
    int rows = (tile.row1 - tile.row0) * group_;
    for (int r = 0; r < rows; r++) {
      float peak = -INFINITY, total = 0;
      for (int p = 0; p < tile.parts; p++)
        peak = std::max(peak, part_of(tile, head, p)[plan_.most_rows * out_stride_ + r]);
      float* out = s.out.get() + r * out_stride_;
      std::fill_n(out, out_stride_, 0.0f);
      for (int p = 0; p < tile.parts && peak > -INFINITY; p++) {
        const float* part = part_of(tile, head, p);
        float factor = std::exp2(part[plan_.most_rows * out_stride_ + r] - peak);
        total += factor * part[plan_.most_rows * (out_stride_ + 1) + r];
        for (int d = 0; d < out_stride_; d += VL)
          store(out + d, fma(load(part + r * out_stride_ + d), set1(factor), load(out + d)));
      }
      s.total.get()[r] = total;
    }
    write_out(tile, head, s.out.get(), s.total.get());
  }

  void write_out(const Tile& tile, int64_t head, const float* out, const float* total) {
    auto to = static_cast<B*>(call_.out);
    for (int row = tile.row0; row < tile.row1; row++)
      for (int g = 0; g < group_; g++, out += out_stride_, total++) {
        B* place = to + (int64_t(row) * plan_.shape.heads + head * group_ + g) * value_dim_;
        vf factor = set1(*total == 0 ? 0 : 1 / *total);
        int d = 0;
        for (; d + VL <= value_dim_; d += VL) store_from_float(place + d, load(out + d) * factor);
        if (d < value_dim_) {
          B last[VL];
          store_from_float(last, load(out + d) * factor);
          memcpy(place + d, last, (value_dim_ - d) * sizeof(B));
        }
      }
  }

  const Plan& plan_;
  const ShoalAttention& call_;
  const int group_, key_dim_, value_dim_;
  const int64_t out_stride_, part_size_;
  Buffer<float> parts_;
  std::unique_ptr<std::atomic<int32_t>[]> done_;
};

}  // namespace
}  // namespace shoal
