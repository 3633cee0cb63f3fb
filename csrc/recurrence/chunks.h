// Chunks level by level, each divided into parts that know nothing of each other.
#pragma once
#include <algorithm>
#include <cstdint>

#include "shoal_kernels.h"

namespace shoal {
namespace {

constexpr int64_t kPiece = 64;  // rows that are made ready together

struct Chunk {
  int64_t begin, end;  // rows
  int64_t source, target;
};

// Calls run(chunk, part) for `parts` parts of each chunk. Those of a level run side by side, and write
// into slots of their own; a later level may read them.
template <class Run>
void each_chunk(const ShoalChunks& c, int64_t parts, int32_t threads, const Run& run) {
  for (int64_t level = 0; level < c.levels; level++) {
    int64_t first = c.level_first[level], tasks = (c.level_first[level + 1] - first) * parts;
    int64_t at_once = std::max<int64_t>(tasks / (16 * int64_t(threads)), 1);  // cores need not be equally fast
#pragma omp parallel for num_threads(threads) if (tasks > 1) schedule(dynamic, at_once)
    for (int64_t task = 0; task < tasks; task++) {
      int64_t i = c.order[first + task / parts];
      run(Chunk{c.row_first[i], c.row_first[i + 1], c.source[i], c.target[i]}, task % parts);
    }
  }
}

// Into how many parts a head's state is to be divided: one, unless threads would be idle.
inline int64_t parts_of_head(const ShoalChunks& c, int32_t heads, int64_t most, int32_t threads) {
  int64_t tasks = c.levels ? c.chunks / c.levels * heads : heads;
  return std::clamp<int64_t>(4 * int64_t(threads) / std::max<int64_t>(tasks, 1), 1, most);
}

}  // namespace
}  // namespace shoal
