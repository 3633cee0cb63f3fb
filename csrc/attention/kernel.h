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
//   kOverlaps   products leave the vector units free, for the softmax of the rows before
//   product     c[rows][width] = a x the columns [column, column + width) of some blocks
//               (while the blocks ahead are fetched, unless kOverlaps)
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <type_traits>

#include "attention/buffer.h"
#include "attention/convert.h"
#include "attention/plan.h"
#include "attention/softmax.h"
#include "vec.h"

namespace shoal {
namespace {

constexpr int kChunk = 512;  // keys whose scores are kept at a time
constexpr int kChunkBlocks = kChunk / SHOAL_BLOCK;
// A row of scores or weights, with a cache line more: rows a power of two apart would share sets of
// the cache, and stores would hold up loads 4 KiB away.
constexpr int64_t kScoreStride = kChunk + 16;
template <class A>
constexpr int64_t kWeightStride = kChunk + 64 / sizeof(A);
constexpr float kLog2e = 1.4426950408889634f;

// Blocks that will be needed soon: each is fetched while the block of its number is multiplied.
template <class B>
struct Ahead {
  const B* const* blocks = nullptr;
  int num = 0;
  int64_t bytes = 0;  // of each
};

template <class Unit>
class Kernel {
  using A = typename Unit::A;
  using B = typename Unit::B;
  static constexpr int kDegree = sizeof(B) == 4 ? 6 : 3;
  static constexpr bool kInPlace = std::is_same_v<A, float> && !Unit::kOverlaps;

 public:
  Kernel(const Plan& plan, const ShoalAttention& call)
      : plan_(plan),
        call_(call),
        group_(plan.group()),
        key_dim_(plan.shape.key_dim),
        value_dim_(plan.shape.value_dim),
        scale_(call.softcap > 0 ? kLog2e : call.scale * kLog2e),
        out_stride_(round_up(value_dim_, 32)),
        part_size_(int64_t(plan.most_rows) * (out_stride_ + 2)),
        parts_(int64_t(plan.parts) * plan.shape.kv_heads * part_size_),
        done_(std::make_unique<std::atomic<int32_t>[]>(plan.tiles.size() * plan.shape.kv_heads)) {}

  void run() {
    const int64_t num_tasks = plan_.tasks.size(), all = num_tasks * plan_.shape.kv_heads;
    std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(plan_.shape.threads)
    {
      Scratch scratch(plan_.most_rows, key_dim_, out_stride_,
                      call_.values ? 0 : kChunk * int64_t(value_dim_) + 64);
      Unit::begin();
      // Head by head: tiles that read the same keys follow each other, and find them in the cache.
      for (int64_t t; (t = next.fetch_add(1, std::memory_order_relaxed)) < all;)
        do_task(plan_.tasks[t % num_tasks], t / num_tasks, scratch);
      Unit::end();
    }
  }

 private:
  struct Scratch {
    Scratch(int rows, int key_dim, int64_t out_stride, int64_t turned_size)
        : query(round_up(rows + 32, 32) * int64_t(key_dim)),
          scores{Buffer<float>(Unit::kSubRows * kScoreStride + 64),
                 Buffer<float>(Unit::kOverlaps ? Unit::kSubRows * kScoreStride + 64 : 0)},
          weights(kInPlace ? 0 : Unit::kSubRows * kWeightStride<A> + 64),
          product(Unit::kSubRows * out_stride + 64),
          turned(turned_size),
          out((rows + 32) * out_stride),
          peak(rows + 32),
          total(rows + 32) {}
    A* weights_of(int buffer) {
      if constexpr (kInPlace) return scores[buffer].get();
      else return weights.get();
    }
    Buffer<A> query;          // [rows][key_dim]
    Buffer<float> scores[2];  // [kSubRows][kScoreStride]; the second for units that overlap
    Buffer<A> weights;        // [kSubRows][kWeightStride], unless they take the scores' place
    Buffer<float> product;    // [kSubRows][out_stride]
    Buffer<B> turned;         // a chunk's keys laid out as values, where they are the values
    Buffer<float> out;        // [rows][out_stride], not yet divided by `total`
    Buffer<float> peak;       // [rows], of the scores times scale * log2(e)
    Buffer<float> total;      // [rows], of the weights
  };

  // Some rows of a piece and a chunk of its keys: the step of the running softmax.
  struct Step {
    const Piece* piece;
    int first, last;  // query rows of the piece, counted in the tile
    int row, rows;    // those of this step
    int key0, len, num_blocks;
    bool opens;       // the first rows to read this chunk
  };

  // Steps of a task in order: pieces, chunks of their keys, rows.
  class Steps {
   public:
    Steps(const Kernel& kernel, const Task& task)
        : kernel_(kernel),
          row0_(kernel.plan_.tiles[task.tile].row0),
          piece_(&kernel.plan_.pieces[task.piece0]),
          end_(&kernel.plan_.pieces[task.piece1]),
          key0_(piece_ < end_ ? piece_->key0 : 0) {}

    bool next(Step& step) {
      for (; piece_ < end_; row_ += Unit::kSubRows) {
        int first = (piece_->row0 - row0_) * kernel_.group_;
        int last = (piece_->row1 - row0_) * kernel_.group_;
        if (first + row_ >= last) {
          row_ = -Unit::kSubRows;
          opens_ = true;
          key0_ += kChunk;
          if (key0_ >= piece_->key1 && ++piece_ < end_) key0_ = piece_->key0;
          continue;
        }
        int rows = std::min(Unit::kSubRows, last - first - row_);
        int len = std::min(kChunk, piece_->key1 - key0_);
        // Causal rows may see nothing of this chunk.
        int seen = kernel_.visible(*piece_, row_ + rows - 1, key0_, len);
        // Whole blocks that a window hides from these rows are passed over.
        int hidden = kernel_.hidden_from_all(*piece_, row_, rows, key0_, len);
        if (seen <= hidden) continue;
        hidden -= hidden % SHOAL_BLOCK;
        len -= hidden;
        step = {piece_, first, last, first + row_, rows, key0_ + hidden, len,
                (len + SHOAL_BLOCK - 1) / SHOAL_BLOCK, opens_};
        opens_ = false;
        row_ += Unit::kSubRows;
        return true;
      }
      return false;
    }

   private:
    const Kernel& kernel_;
    const int row0_;
    const Piece *piece_, *end_;
    int key0_, row_ = 0;
    bool opens_ = true;
  };

  void do_task(const Task& task, int64_t head, Scratch& s) {
    const Tile& tile = plan_.tiles[task.tile];
    const B* keys = static_cast<const B*>(call_.keys) + head * call_.keys_head;
    auto values = static_cast<const B*>(call_.values);
    if (values) values += head * call_.values_head;
    int rows = (tile.row1 - tile.row0) * group_;
    pack_query(tile, head, s.query.get());
    std::fill_n(s.peak.get(), rows, -INFINITY);
    std::fill_n(s.total.get(), rows, 0.0f);
    std::fill_n(s.out.get(), rows * out_stride_, 0.0f);
    if constexpr (Unit::kOverlaps)
      overlapped(task, keys, values, s);
    else
      in_turn(task, keys, values, s);
    finish(task, head, s);
  }

  // Step after step. What a step works on stays in the first cache. What comes next is fetched line
  // by line, the values with the scores and the next keys with the values: memory is then never idle
  // for long, and many lines at once would hold up the loads of the products.
  void in_turn(const Task& task, const B* keys, const B* values, Scratch& s) {
    Steps steps(*this, task);
    Step now, next;
    bool more = steps.next(now), even_more;
    for (; more; now = next, more = even_more) {
      even_more = steps.next(next);
      for (int k = 0; k < now.num_blocks; k++) {
        const B* block = values ? block_at(values, now, k, value_dim_) : nullptr;
        Ahead<B> ahead;
        if (now.opens && values) ahead = {&block, 1, block_bytes(value_dim_)};
        score(now, k, keys, s, 0, ahead);
      }
      const B* blocks[kChunkBlocks];
      Ahead<B> ahead;
      if (even_more && next.opens) ahead = {blocks, next.num_blocks, block_bytes(key_dim_)};
      for (int k = 0; k < ahead.num; k++) blocks[k] = block_at(keys, next, k, key_dim_);
      soften_and_add(now, keys, values, s, 0, [](int) {}, ahead);
    }
  }

  // The scores of the next step are computed between the rows of this step's softmax: the matrix
  // unit and the vector units work at the same time.
  void overlapped(const Task& task, const B* keys, const B* values, Scratch& s) {
    Steps steps(*this, task);
    Step now, next, later;
    bool more = steps.next(now), even_more = more && steps.next(next), last = false;
    if (more)
      for (int k = 0; k < now.num_blocks; k++) score(now, k, keys, s, 0);
    for (int buffer = 0; more; buffer ^= 1, now = next, next = later, more = even_more, even_more = last) {
      last = even_more && steps.next(later);
      int done = 0, blocks = even_more ? next.num_blocks : 0;
      soften_and_add(now, keys, values, s, buffer, [&](int share) {  // of 2 * now.rows
        for (; done * 2 * now.rows < blocks * share; done++) {
          if (next.opens && call_.values) prefetch(values, next, done, value_dim_);
          if (last && later.opens && done < later.num_blocks) prefetch(keys, later, done, key_dim_);
          score(next, done, keys, s, buffer ^ 1);
        }
      });
    }
  }

  // A step's softmax and its product with the values. `between` is called before each of its rows,
  // twice, with how often it was called.
  template <class Between>
  void soften_and_add(const Step& step, const B* keys, const B* values, Scratch& s, int buffer,
                      Between between, const Ahead<B>& ahead = {}) {
    alignas(64) float shrink[Unit::kSubRows + VL];
    float* scores = s.scores[buffer].get();
    A* weights = s.weights_of(buffer);
    float *peak = s.peak.get() + step.row, *total = s.total.get() + step.row;
    for (int r = 0; r < step.rows; r++) {
      between(r + 1);
      shrink[r] = peak[r];
      int hidden = hidden_from(step, r), seen = seen_by(step, r) - hidden;
      float* row = scores + r * kScoreStride + hidden;
      if (call_.softcap > 0) cap(row, seen, call_.scale, call_.softcap);
      peak[r] = std::max(peak[r], highest(row, seen) * scale_);
    }
    // A row that has seen nothing yet would take minus infinity from itself.
    for (int r = 0; r < step.rows; r += VL)
      store(shrink + r, exp2<6>(load(shrink + r) - max(load(peak + r), set1(-1e30f))));
    for (int r = 0; r < step.rows; r++) {
      between(step.rows + r + 1);
      int hidden = hidden_from(step, r), len = step.num_blocks * SHOAL_BLOCK;
      A* row = weights + r * kWeightStride<A>;
      float sum = weigh<kDegree>(scores + r * kScoreStride + hidden, row + hidden,
                                 seen_by(step, r) - hidden, len - hidden, scale_, peak[r]);
      std::fill_n(row, hidden, A(0));
      total[r] = total[r] * shrink[r] + sum;
    }
    add_values(step, keys, values, weights, shrink, s, ahead);
  }

  void finish(const Task& task, int64_t head, Scratch& s) {
    const Tile& tile = plan_.tiles[task.tile];
    int rows = (tile.row1 - tile.row0) * group_;
    if (tile.parts == 1) {
      write_out(tile, head, s);
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

  // How many of the chunk's `len` keys a query row (counted from the piece's first) sees.
  int visible(const Piece& piece, int row, int key0, int len) const {
    return piece.causal ? std::clamp(piece.first_visible + row / group_ - key0, 0, len) : len;
  }

  int seen_by(const Step& step, int r) const {
    return visible(*step.piece, step.row + r - step.first, step.key0, step.len);
  }

  // How many of the chunk's keys the window hides from a row; at most as many as it would see.
  int hidden_from(const Step& step, int r) const {
    const Piece& piece = *step.piece;
    int row = piece.row0 + (step.row + r - step.first) / group_;
    return std::clamp(plan_.hidden(piece.start, row) - step.key0, 0, step.len);
  }

  // And from all of some query rows (counted from the piece's first); 0 without a window.
  int hidden_from_all(const Piece& piece, int row, int rows, int key0, int len) const {
    if (plan_.positions.empty()) return 0;
    int first = piece.row0 + row / group_, last = piece.row0 + (row + rows - 1) / group_ + 1;
    return std::clamp(first_seen(plan_, piece.start, first, last) - key0, 0, len);
  }

  A* query_of(const Step& step, Scratch& s) const {
    return s.query.get() + int64_t(step.row) * key_dim_;
  }

  static int64_t block_bytes(int dim) { return SHOAL_BLOCK * dim * sizeof(B); }

  // A step's k-th block of keys or values.
  static const B* block_at(const B* of, const Step& step, int k, int dim) {
    return of + step.piece->blocks[step.key0 / SHOAL_BLOCK + k] * int64_t(SHOAL_BLOCK) * dim;
  }

  // The scores of a step's rows and its k-th block of keys.
  void score(const Step& step, int k, const B* keys, Scratch& s, int buffer, const Ahead<B>& ahead = {}) {
    const B* block = block_at(keys, step, k, key_dim_);
    Unit::product(query_of(step, s), key_dim_, step.rows, &block, 1, key_dim_ / Unit::pack,
                  SHOAL_BLOCK * Unit::pack, 0, SHOAL_BLOCK,
                  s.scores[buffer].get() + k * SHOAL_BLOCK, kScoreStride, ahead);
  }

  // Asks for a block of keys or values that will be needed soon.
  void prefetch(const B* of, const Step& step, int k, int dim) const {
    auto block = reinterpret_cast<const char*>(block_at(of, step, k, dim));
    for (int64_t at = 0; at < block_bytes(dim); at += 64) _mm_prefetch(block + at, _MM_HINT_T1);
  }

  void add_values(const Step& step, const B* keys, const B* values, const A* weights,
                  const float* shrink, Scratch& s, const Ahead<B>& ahead) {
    const B* blocks[kChunkBlocks];
    for (int k = 0; k < step.num_blocks; k++) {
      if (values) {
        blocks[k] = block_at(values, step, k, value_dim_);
        continue;
      }
      B* block = s.turned.get() + k * int64_t(SHOAL_BLOCK) * value_dim_;
      // Whoever reads a chunk next finds them: without a window all rows read the same blocks.
      if (step.opens || !plan_.positions.empty()) turn(block_at(keys, step, k, key_dim_), block);
      blocks[k] = block;
    }
    float* product = s.product.get();
    Unit::product(weights, kWeightStride<A>, step.rows, blocks, step.num_blocks,
                  SHOAL_BLOCK / Unit::pack, int64_t(value_dim_) * Unit::pack, 0, value_dim_,
                  product, out_stride_, ahead);
    for (int r = 0; r < step.rows; r++) {
      float* out = s.out.get() + (step.row + r) * out_stride_;
      vf factor = set1(shrink[r]);
      for (int d = 0; d < out_stride_; d += VL)
        store(out + d, fma(load(out + d), factor, load(product + r * out_stride_ + d)));
    }
  }

  // A block of keys as a block of values: the first `value_dim_` numbers of each token.
  void turn(const B* block, B* to) const {
    constexpr int pack = Unit::pack, kAcross = 64 / sizeof(B);  // a cache line of results at a time
    for (int d0 = 0; d0 < value_dim_; d0 += kAcross) {
      int d1 = std::min(d0 + kAcross, value_dim_);
      for (int t = 0; t < SHOAL_BLOCK; t++)
        for (int d = d0; d < d1; d++)
          to[(t / pack * int64_t(value_dim_) + d) * pack + t % pack] =
              block[(d / pack * SHOAL_BLOCK + t) * pack + d % pack];
    }
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
      s.peak.get()[r] = peak;
    }
    write_out(tile, head, s);
  }

  void write_out(const Tile& tile, int64_t head, Scratch& s) {
    if (call_.sinks) add_sinks((tile.row1 - tile.row0) * group_, call_.sinks + head * group_, s);
    if (call_.lse) write_lse(tile, head, s);
    if (call_.out_dtype == SHOAL_FLOAT32)
      write_out_as<float>(tile, head, s.out.get(), s.total.get());
    else
      write_out_as<B>(tile, head, s.out.get(), s.total.get());
  }

  // The natural logarithm of the sum of each row's exponentials.
  void write_lse(const Tile& tile, int64_t head, Scratch& s) {
    const float *peak = s.peak.get(), *total = s.total.get();
    for (int row = tile.row0; row < tile.row1; row++)
      for (int g = 0; g < group_; g++, peak++, total++)
        call_.lse[int64_t(row) * plan_.shape.heads + head * group_ + g] =
            *total == 0 ? -INFINITY : (*peak + std::log2(*total)) / kLog2e;
  }

  // One more weight in each row's total: its result is divided by more than its own weights.
  void add_sinks(int rows, const float* sinks, Scratch& s) {
    for (int r = 0; r < rows; r++) {
      float &total = s.total.get()[r], sink = sinks[r % group_] * kLog2e - s.peak.get()[r];
      // A row without keys has a peak of minus infinity, and stays 0.
      if (total != 0) total += std::exp2(sink);
    }
  }

  template <class T>
  void write_out_as(const Tile& tile, int64_t head, const float* out, const float* total) {
    auto to = static_cast<T*>(call_.out);
    for (int row = tile.row0; row < tile.row1; row++)
      for (int g = 0; g < group_; g++, out += out_stride_, total++) {
        T* place = to + (int64_t(row) * plan_.shape.heads + head * group_ + g) * value_dim_;
        vf factor = set1(*total == 0 ? 0 : 1 / *total);
        int d = 0;
        for (; d + VL <= value_dim_; d += VL) store_from_float(place + d, load(out + d) * factor);
        if (d < value_dim_) {
          T last[VL];
          store_from_float(last, load(out + d) * factor);
          memcpy(place + d, last, (value_dim_ - d) * sizeof(T));
        }
      }
  }

  const Plan& plan_;
  const ShoalAttention& call_;
  const int group_, key_dim_, value_dim_;
  const float scale_;  // of scores, in base 2
  const int64_t out_stride_, part_size_;
  Buffer<float> parts_;
  std::unique_ptr<std::atomic<int32_t>[]> done_;
};

}  // namespace
}  // namespace shoal
