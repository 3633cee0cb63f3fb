// Slices of a batch's rows, each with its adapter: some rows of a slice at a time, on one thread.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>

#include "lora/lora.h"
#include "lora/tiles.h"

namespace shoal {
namespace {

constexpr int64_t kMostRows = 64;  // of a task: its rows, widened, and one matrix stay in the cache

// Rows of one slice, for one thread.
struct Task {
  int32_t adapter;
  int64_t first, rows;  // among those of the call
};

template <class X>
struct Rows {
  const X* x;
  int64_t stride;
};

inline const ShoalLoraMatrices& matrices_of(const ShoalLora& c, const Task& task, int64_t linear) {
  return c.matrices[task.adapter * c.adapter_stride + linear];
}

// What a thread needs besides, kept between calls.
struct Scratch {
  std::vector<float> wide, low;
};

// The rows of a task, as float32.
inline Rows<float> widened(const ShoalLora& c, const Task& task, Rows<uint16_t> rows, std::vector<float>& wide) {
  wide.resize(task.rows * c.inputs);
  for (int64_t r = 0; r < task.rows; r++) {
    float* to = &wide[r * c.inputs];
    const uint16_t* from = rows.x + r * rows.stride;
#pragma omp simd
    for (int64_t i = 0; i < c.inputs; i++) to[i] = get(from[i]);
  }
  return {wide.data(), c.inputs};
}

// One linear layer of a product. X, W, T: formats of the rows, the adapter's matrices and the output.
template <class T, class X, class W>
void add_linear(const ShoalLora& c, const Task& task, int64_t linear, Rows<X> rows, const W* a, const W* b,
                std::vector<float>& low) {
  const ShoalLoraMatrices& m = matrices_of(c, task, linear);
  int64_t rank = m.rank, outputs = c.outputs[linear];
  low.resize(task.rows * rank);
  each_row_tile(task.rows, [&](auto r, int64_t row) {
    low_rows<decltype(r)::value>(rows.x + row * rows.stride, rows.stride, a, c.inputs, rank, &low[row * rank]);
  });
  T* out = static_cast<T*>(c.out) + task.first * c.out_row + c.columns[linear];
  for (int64_t at = 0; at < outputs; at += SHOAL_LORA_PANEL) {
    int64_t width = std::min<int64_t>(SHOAL_LORA_PANEL, outputs - at);
    each_row_tile(task.rows, [&](auto r, int64_t row) {
      high_panel<decltype(r)::value>(&low[row * rank], rank, b + at * rank, width, m.scale,
                                     out + row * c.out_row + at, c.out_row);
    });
  }
}

template <class X, class T>
void run_task(const ShoalLora& c, const Task& task) {
  thread_local Scratch scratch;
  Rows<X> rows{static_cast<const X*>(c.x) + task.first * c.x_row, c.x_row};
  Rows<float> wide{};
  auto as_floats = [&] {
    if constexpr (std::is_same_v<X, float>) return rows;
    else return wide.x ? wide : wide = widened(c, task, rows, scratch.wide);
  };
  for (int64_t linear = 0; linear < c.linears; linear++) {
    const ShoalLoraMatrices& m = matrices_of(c, task, linear);
    if (m.rank == 0) continue;
    auto add = [&](auto rows, auto* a) {
      add_linear<T>(c, task, linear, rows, a, static_cast<decltype(a)>(m.b), scratch.low);
    };
    if (m.dtype == SHOAL_FLOAT32) add(as_floats(), static_cast<const float*>(m.a));
    else if constexpr (kPairs && std::is_same_v<X, uint16_t>) add(rows, static_cast<const uint16_t*>(m.a));
    else add(as_floats(), static_cast<const uint16_t*>(m.a));
  }
}

inline std::vector<Task> tasks_of(const ShoalLora& c) {
  // Several for each thread, since cores need not be equally fast; whole tiles of rows.
  int64_t most = c.rows / (4 * int64_t(c.threads)) / kRows * kRows;
  most = std::clamp<int64_t>(most, 2 * kRows, kMostRows);
  std::vector<Task> tasks;
  for (int64_t s = 0; s < c.slices; s++) {
    int64_t first = std::max<int64_t>(c.begin[s] - c.first_row, 0);
    int64_t last = std::min<int64_t>(c.end[s] - c.first_row, c.rows);
    for (; first < last; first += most) tasks.push_back({c.adapter[s], first, std::min(most, last - first)});
  }
  return tasks;
}

template <class X, class T>
void run_all(const ShoalLora& c) {
  std::vector<Task> tasks = tasks_of(c);
  int64_t count = tasks.size(), at_once = std::max<int64_t>(count / (16 * int64_t(c.threads)), 1);
#pragma omp parallel for num_threads(c.threads) if (count > 1) schedule(dynamic, at_once)
  for (int64_t i = 0; i < count; i++) run_task<X, T>(c, tasks[i]);
}

inline void add_adapters(const ShoalLora& c) {
  bool wide_x = c.dtype == SHOAL_FLOAT32, wide_out = c.out_dtype == SHOAL_FLOAT32;
  auto run = wide_x ? (wide_out ? run_all<float, float> : run_all<float, uint16_t>)
                    : (wide_out ? run_all<uint16_t, float> : run_all<uint16_t, uint16_t>);
  run(c);
}

}  // namespace
}  // namespace shoal
