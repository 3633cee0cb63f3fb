// Runs the recurrences on odd sizes against their definitions, row by row in double.
// Built with the sanitizers like test_kernels.cpp: buffers hold what they may touch and nothing more.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "numbers.h"
#include "shoal_kernels.h"

namespace {

std::vector<float> fractions(int64_t n) {
  std::uniform_real_distribution<float> uniform(0.2f, 1.0f);
  std::vector<float> out(n);
  for (float& x : out) x = uniform(rng);
  return out;
}

template <class T>
bool near(T found, double expected, const char* what) {
  double unit = sizeof(T) == 2 ? 1.0 / 128 : 1e-4;
  if (std::abs(as_double(found) - expected) <= unit * (std::abs(expected) + 0.3)) return true;
  printf("%s: %g instead of %g\n", what, as_double(found), expected);
  return false;
}

// A segment, two that start behind it in the same batch, one that goes on in its slot, single rows.
struct Batch {
  std::vector<int64_t> row_first{0}, source{5, 0, 0, 3, 4, 6}, target{0, 1, 2, 3, 4, 5};
  std::vector<int64_t> order{0, 3, 4, 5, 1, 2}, level_first{0, 4, 6};
  ShoalChunks chunks;
  static constexpr int64_t kSlots = 7;

  Batch() {
    for (int i = 0; i < 6; i++) row_first.push_back(row_first.back() + (i < 4 ? pick({1, 2, 63, 64, 65, 130}) : 1));
    source[0] = 6;
    chunks = {6, 2, row_first.data(), source.data(), target.data(), order.data(), level_first.data()};
  }
  int64_t rows() const { return row_first.back(); }

  // Calls row(r, slot's state) for the rows of each chunk; states [slots][size].
  template <class Row>
  void in_order(std::vector<double>& states, int64_t size, const Row& row) const {
    for (int64_t i : order) {
      std::vector<double> state(&states[source[i] * size], &states[source[i] * size] + size);
      for (int64_t r = row_first[i]; r < row_first[i + 1]; r++) row(r, state.data());
      std::copy(state.begin(), state.end(), &states[target[i] * size]);
    }
  }
};

template <class T>
int compare(const std::vector<T>& found, const std::vector<double>& expected, const char* what) {
  int wrong = 0;
  for (size_t i = 0; i < found.size(); i++) wrong += !near(found[i], expected[i], what);
  return wrong;
}

template <class T>
int test_delta_rule(int32_t dtype, int32_t isa, int32_t threads) {
  Batch batch;
  int32_t share = pick({1, 2}), key_heads = pick({1, 3}), heads = share * key_heads;
  int64_t dk = pick({4, 17, 128}), dv = pick({5, 32, 72, 128}), keep_dim = pick({1, int(dk)});
  int64_t rows = batch.rows(), k_row = key_heads * dk + pick({0, 3}), v_row = heads * dv + pick({0, 7});
  int32_t normalize = dk > 100 ? 1 : pick({0, 1});
  auto query = random_numbers<T>(rows * k_row), key = random_numbers<T>(rows * k_row), value = random_numbers<T>(rows * v_row);
  if (!normalize)
    for (T& k : key) set(k, as_double(k) / 8);
  auto keep = fractions(rows * heads * keep_dim), beta = fractions(rows * heads);
  auto states = random_numbers<float>(Batch::kSlots * heads * dk * dv);
  std::vector<double> expected(rows * heads * dv), was(states.begin(), states.end());
  std::vector<T> out(rows * heads * dv);
  batch.in_order(was, heads * dk * dv, [&](int64_t r, double* state) {
    for (int h = 0; h < heads; h++) {
      double q2 = 1e-6, k2 = 1e-6;
      const T *q = &query[r * k_row + h / share * dk], *k = &key[r * k_row + h / share * dk];
      for (int i = 0; i < dk; i++) q2 += as_double(q[i]) * as_double(q[i]), k2 += as_double(k[i]) * as_double(k[i]);
      if (!normalize) q2 = k2 = 1;
      for (int j = 0; j < dv; j++) {
        double found = 0, read = 0;
        auto s = [&](int i) -> double& { return state[(h * dk + i) * dv + j]; };
        for (int i = 0; i < dk; i++) {
          s(i) *= keep[(r * heads + h) * keep_dim + (keep_dim > 1 ? i : 0)];
          found += as_double(k[i]) / std::sqrt(k2) * s(i);
        }
        double change = (as_double(value[r * v_row + h * dv + j]) - found) * beta[r * heads + h];
        for (int i = 0; i < dk; i++) {
          s(i) += as_double(k[i]) / std::sqrt(k2) * change;
          read += as_double(q[i]) / std::sqrt(q2 * dk) * s(i);
        }
        expected[(r * heads + h) * dv + j] = read;
      }
    }
  });
  ShoalDeltaRule call{dtype, isa, threads, heads, key_heads, int32_t(dk), int32_t(dv), normalize, int32_t(keep_dim),
                      &batch.chunks, query.data(), key.data(), value.data(), k_row, k_row, v_row,
                      keep.data(), beta.data(), states.data(), out.data()};
  shoal_delta_rule(&call);
  return compare(out, expected, "delta rule") + compare(states, was, "state of a delta rule");
}

template <class T>
int test_state_space(int32_t dtype, int32_t isa, int32_t threads) {
  Batch batch;
  int32_t share = pick({1, 3}), groups = pick({1, 2}), heads = share * groups;
  int64_t dim = pick({3, 16, 64}), n_dim = pick({4, 16, 37, 128, 144}), rows = batch.rows();
  int64_t x_row = heads * dim + pick({0, 5}), b_row = groups * n_dim + pick({0, 3});
  auto x = random_numbers<T>(rows * x_row), b = random_numbers<T>(rows * b_row), c = random_numbers<T>(rows * b_row);
  auto time = fractions(rows * heads), keep = fractions(rows * heads), skip = random_numbers<float>(heads);
  for (float& each : time) each /= 8;
  auto states = random_numbers<float>(Batch::kSlots * heads * dim * n_dim);
  std::vector<double> expected(rows * heads * dim), was(states.begin(), states.end());
  std::vector<T> out(rows * heads * dim);
  batch.in_order(was, heads * dim * n_dim, [&](int64_t r, double* state) {
    for (int h = 0; h < heads; h++)
      for (int i = 0; i < dim; i++) {
        double in = as_double(x[r * x_row + h * dim + i]), read = skip[h] * in;
        for (int n = 0; n < n_dim; n++) {
          double& s = state[(h * dim + i) * n_dim + n];
          s = s * keep[r * heads + h] + time[r * heads + h] * in * as_double(b[r * b_row + h / share * n_dim + n]);
          read += s * as_double(c[r * b_row + h / share * n_dim + n]);
        }
        expected[(r * heads + h) * dim + i] = read;
      }
  });
  ShoalStateSpace call{dtype, isa, threads, heads, groups, int32_t(dim), int32_t(n_dim), &batch.chunks,
                       x.data(), b.data(), c.data(), x_row, b_row, b_row, time.data(), keep.data(),
                       skip.data(), states.data(), out.data()};
  shoal_state_space(&call);
  return compare(out, expected, "state space") + compare(states, was, "state of a state space");
}

template <class T>
int test_convolution(int32_t dtype, int32_t isa, int32_t threads) {
  Batch batch;
  int32_t earlier = pick({1, 2, 3}), activation = pick({-1, int(SHOAL_SILU)});
  int64_t channels = pick({1, 31, 256, 300}), rows = batch.rows(), x_row = channels + pick({0, 9});
  auto x = random_numbers<T>(rows * x_row), states = random_numbers<T>(Batch::kSlots * earlier * channels);
  auto weight = random_numbers<float>((earlier + 1) * channels), bias = random_numbers<float>(channels);
  bool biased = pick({0, 1});
  std::vector<double> expected(rows * channels), was;
  for (T s : states) was.push_back(as_double(s));
  std::vector<T> out(rows * channels);
  batch.in_order(was, earlier * channels, [&](int64_t r, double* state) {
    for (int64_t c = 0; c < channels; c++) {
      double now = as_double(x[r * x_row + c]), sum = (biased ? bias[c] : 0) + weight[earlier * channels + c] * now;
      for (int k = 0; k < earlier; k++) {
        sum += weight[k * channels + c] * state[k * channels + c];
        state[k * channels + c] = k + 1 < earlier ? state[(k + 1) * channels + c] : now;
      }
      expected[r * channels + c] = activation < 0 ? sum : sum / (1 + std::exp(-sum));
    }
  });
  ShoalConvolution call{dtype, isa, threads, activation, earlier, channels, &batch.chunks, x.data(), x_row,
                        weight.data(), biased ? bias.data() : nullptr, states.data(), out.data()};
  shoal_convolution(&call);
  return compare(out, expected, "convolution") + compare(states, was, "state of a convolution");
}

template <class T>
int run(int32_t dtype, int32_t isa, int32_t threads) {
  return test_delta_rule<T>(dtype, isa, threads) + test_state_space<T>(dtype, isa, threads) +
         test_convolution<T>(dtype, isa, threads);
}

}  // namespace

int main(int argc, char** argv) {
  int cases = argc > 1 ? atoi(argv[1]) : 60, wrong = 0;
  for (int seed = 0; seed < cases; seed++) {
    rng.seed(seed);
    int32_t isa = rng() % (shoal_highest_isa() + 1), threads = pick({1, 2, 3});
    int bad = seed % 2 ? run<float>(SHOAL_FLOAT32, isa, threads) : run<uint16_t>(SHOAL_BFLOAT16, isa, threads);
    if (bad) printf("wrong in case %d\n", seed);
    wrong += bad;
  }
  printf("%d cases, %d wrong\n", cases, wrong);
  return wrong ? 1 : 0;
}
