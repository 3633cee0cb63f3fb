// Runs every kernel of this machine on random token batches against attention by its definition.
// Built with the address and undefined behaviour sanitizers by `make sanitize`: buffers are as large as
// the interface says and no larger, so that a read or write outside them stops the run.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "shoal_kernels.h"

namespace {

constexpr int kSlackBytes = 64;

std::mt19937 rng;

int pick(std::initializer_list<int> of) { return of.begin()[rng() % of.size()]; }

float round_to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  memcpy(&x, &bits, 4);
  return x;
}

struct Batch {
  std::vector<int32_t> row_first, row_last, kv_tokens, starts, blocks;
  std::vector<uint8_t> causal;
  std::vector<int64_t> offsets{0};
  int64_t rows = 0;
  int32_t num_blocks = 0;

  void add(int first, int last, int tokens, bool is_causal) {
    row_first.push_back(first);
    row_last.push_back(last);
    kv_tokens.push_back(tokens);
    starts.push_back(0);
    causal.push_back(is_causal);
    num_blocks += (tokens + SHOAL_BLOCK - 1) / SHOAL_BLOCK;
    offsets.push_back(num_blocks);
  }

  // A shared segment of `tokens` tokens before all items from `item` on.
  void add_before(size_t item, int first, int tokens) {
    for (size_t i = item; i < starts.size(); i++) starts[i] += tokens;
    add(first, rows, tokens, false);
  }

  std::vector<int64_t> positions() const {
    std::vector<int64_t> found(rows);
    for (size_t i = 0; i < causal.size(); i++)
      for (int row = row_first[i]; causal[i] && row < row_last[i]; row++)
        found[row] = starts[i] + kv_tokens[i] - (row_last[i] - row);
    return found;
  }
};

// Two levels of shared segments over chunks and decodes of odd sizes.
Batch random_batch() {
  Batch batch;
  for (int group = pick({1, 2, 3}); group > 0; group--) {
    int outer = batch.rows;
    size_t outer_item = batch.starts.size();
    for (int leaf = pick({1, 2, 5}); leaf > 0; leaf--) {
      int inner = batch.rows;
      size_t inner_item = batch.starts.size();
      for (int user = pick({1, 2, 6}); user > 0; user--) {
        int rows = pick({1, 1, 1, 2, 7, 33, 70});
        batch.add(batch.rows, batch.rows + rows, rows + pick({0, 1, 31, 32, 100, 600}), true);
        batch.rows += rows;
      }
      batch.add_before(inner_item, inner, pick({0, 1, 32, 65}));
    }
    batch.add_before(outer_item, outer, pick({0, 5, 700, 1100}));
  }
  batch.blocks.resize(batch.num_blocks);
  std::iota(batch.blocks.begin(), batch.blocks.end(), 0);
  std::shuffle(batch.blocks.begin(), batch.blocks.end(), rng);
  return batch;
}

// T: how the kernels store a number.
template <class T>
T stored(float x);
template <>
float stored<float>(float x) { return x; }
template <>
uint16_t stored<uint16_t>(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits >> 16;
}
float number(float x) { return x; }
float number(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}

// latent: values are the beginnings of keys, and are not stored (MLA).
template <class T>
bool check(const Batch& batch, int32_t dtype, int32_t isa, int heads, int kv_heads, int key_dim,
           int value_dim, int threads, int window, bool chunked, float softcap, bool with_sinks,
           bool latent = false) {
  std::normal_distribution<float> normal;
  auto random = [&](int64_t n) {
    std::vector<float> x(n);
    for (float& value : x) value = dtype == SHOAL_BFLOAT16 ? round_to_bf16(normal(rng)) : normal(rng);
    return x;
  };
  int64_t slots = int64_t(batch.num_blocks) * SHOAL_BLOCK;
  std::vector<float> key = random(kv_heads * slots * key_dim);
  std::vector<float> value = random(kv_heads * slots * value_dim);
  if (latent)
    for (int64_t row = 0; row < kv_heads * slots; row++)
      std::copy_n(&key[row * key_dim], value_dim, &value[row * value_dim]);
  std::vector<float> query = random(batch.rows * heads * key_dim);
  auto as_stored = [](const std::vector<float>& from) {
    std::vector<T> to(from.size());
    std::transform(from.begin(), from.end(), to.begin(), stored<T>);
    return to;
  };
  std::vector<T> k = as_stored(key), v = as_stored(value), q = as_stored(query);
  std::vector<T> keys(k.size() + kSlackBytes / sizeof(T)), values;
  if (!latent) values.resize(v.size() + kSlackBytes / sizeof(T));
  T* kept = latent ? nullptr : values.data();
  std::vector<T> out(batch.rows * heads * value_dim);
  std::vector<int64_t> places(slots);
  std::iota(places.begin(), places.end(), 0);
  ShoalStore store{dtype, kv_heads, key_dim, value_dim, slots, places.data(), k.data(), v.data(),
                   slots * key_dim, key_dim, slots * value_dim, value_dim, keys.data(),
                   kept, slots * key_dim, slots * value_dim, threads};
  shoal_kv_store(&store);

  std::vector<int64_t> positions = batch.positions();
  // A row of a chunk sees from the chunk's beginning on: as from its end a window back.
  if (chunked && window > 0)
    for (int64_t& position : positions)
      if (position >= 0) position += window - 1 - position % window;
  std::vector<float> sinks = random(heads);
  ShoalWork work{batch.rows, int64_t(batch.row_first.size()), batch.row_first.data(),
                 batch.row_last.data(), batch.kv_tokens.data(), batch.starts.data(),
                 batch.causal.data(), batch.offsets.data(), batch.blocks.data(), positions.data()};
  ShoalShape shape{dtype, isa, heads, kv_heads, key_dim, value_dim, threads, window};
  float scale = 1 / std::sqrt(float(key_dim));
  void* plan = shoal_attention_plan(&work, &shape);
  ShoalAttention call{q.data(), key_dim, int64_t(heads) * key_dim, keys.data(), kept,
                      slots * key_dim, slots * value_dim, scale, softcap, with_sinks ? sinks.data() : nullptr,
                      out.data(), dtype, nullptr};
  shoal_attention_run(plan, &call);
  std::vector<float> wide(out.size()), lse(batch.rows * heads);
  call.out = wide.data(), call.out_dtype = SHOAL_FLOAT32, call.lse = lse.data();
  shoal_attention_run(plan, &call);
  shoal_attention_free(plan);

  double worst = 0;
  for (size_t i = 0; i < out.size(); i++)
    if (!(std::fabs(number(out[i]) - wide[i]) <= std::fabs(wide[i]) / (sizeof(T) == 2 ? 256 : 1e9f)))
      worst = INFINITY;
  std::vector<double> weights;
  for (int64_t row = 0; row < batch.rows; row++)
    for (int head = 0; head < heads; head++) {
      int kv = head / (heads / kv_heads);
      std::vector<int64_t> seen;
      for (size_t i = 0; i < batch.row_first.size(); i++) {
        int first = batch.row_first[i], last = batch.row_last[i];
        if (row < first || row >= last) continue;
        int tokens = batch.kv_tokens[i] - (batch.causal[i] ? last - 1 - row : 0);
        for (int t = 0; t < tokens; t++)
          if (window == 0 || batch.starts[i] + t > positions[row] - window)
            seen.push_back(int64_t(batch.blocks[batch.offsets[i] + t / SHOAL_BLOCK]) * SHOAL_BLOCK +
                         t % SHOAL_BLOCK);
      }
      weights.assign(seen.size(), 0);
      double peak = -std::numeric_limits<double>::infinity(), total = 0;
      for (size_t j = 0; j < seen.size(); j++) {
        double dot = 0;
        for (int d = 0; d < key_dim; d++)
          dot += double(query[(row * heads + head) * key_dim + d]) *
                 key[(kv * slots + seen[j]) * key_dim + d];
        weights[j] = softcap > 0 ? softcap * std::tanh(dot * scale / softcap) : dot * scale;
        peak = std::max(peak, weights[j]);
      }
      if (with_sinks) total = std::exp(sinks[head] - peak);
      for (double& w : weights) total += w = std::exp(w - peak);
      worst = std::max(worst, std::fabs(lse[row * heads + head] - (peak + std::log(total))));
      for (int d = 0; d < value_dim; d++) {
        double expected = 0;
        for (size_t j = 0; j < seen.size(); j++)
          expected += weights[j] / total * value[(kv * slots + seen[j]) * value_dim + d];
        double got = number(out[(row * heads + head) * value_dim + d]);
        worst = std::isnan(got) ? INFINITY : std::max(worst, std::fabs(got - expected));
      }
    }
  double allowed = dtype == SHOAL_BFLOAT16 ? 3e-2 : 2e-5;
  if (worst > allowed)
    printf("isa %d dtype %d heads %d/%d dims %d/%d rows %ld window %d/%d cap %g sinks %d: error %g\n", isa,
           dtype, heads, kv_heads, key_dim, value_dim, long(batch.rows), window, chunked, softcap, with_sinks, worst);
  return worst <= allowed;
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 4, failed = 0, checks = 0;
  for (int round = 0; round < rounds; round++) {
    rng.seed(round);
    Batch batch = random_batch();
    for (int32_t isa = 0; isa <= shoal_highest_isa(); isa++) {
      int group = pick({1, 3, 4}), kv_heads = pick({1, 2});
      int dim = pick({8, 32, 64, 80, 128}), threads = pick({1, 2, 3});
      int window = pick({0, 0, 1, 33, 128, 700});
      bool chunked = pick({0, 1});
      float softcap = pick({0, 0, 3});
      bool sinks = pick({0, 1});
      failed += !check<float>(batch, SHOAL_FLOAT32, isa, group * kv_heads, kv_heads, dim, dim, threads, window,
                              chunked, softcap, sinks);
      failed += !check<uint16_t>(batch, SHOAL_BFLOAT16, isa, group * kv_heads, kv_heads, dim,
                                 pick({dim, 48}), threads, window, chunked, softcap, sinks);
      int rank = pick({16, 32, 96}), rope = pick({8, 16, 64});
      failed += !check<float>(batch, SHOAL_FLOAT32, isa, pick({1, 5, 16}), 1, rank + rope, rank, threads, 0,
                              false, 0, false, true);
      failed += !check<uint16_t>(batch, SHOAL_BFLOAT16, isa, pick({1, 5, 16}), 1, rank + rope, rank, threads, 0,
                                 false, 0, false, true);
      checks += 4;
    }
  }
  printf("%d of %d checks failed\n", failed, checks);
  return failed != 0;
}
