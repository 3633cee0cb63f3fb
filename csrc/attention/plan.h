// The division of a token batch into tasks, made once per batch and used by every layer.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "shoal_kernels.h"

namespace shoal {

// Rows [row0, row1) of a tile attend to tokens [key0, key1) of an item, those a window leaves.
struct Piece {
  int32_t row0, row1;          // absolute rows
  int32_t key0, key1;          // key0 is a multiple of SHOAL_BLOCK
  int32_t causal;              // else every row sees every token
  int32_t first_visible;       // tokens of the item that row0 sees, when causal
  int32_t start;               // position of the item's first token
  const int32_t* blocks;       // of the item, from its first token
};

// A tile of neighbouring rows: all its pieces share one packed query and one running softmax.
struct Tile {
  int32_t row0, row1;
  int32_t parts;               // more than one: split over keys, merged by whoever is last
  int32_t first_part;          // index of its first part's partial results, per KV head
};

struct Task {
  int32_t tile, part;
  int32_t piece0, piece1;
  int64_t cost;                // rows x keys
};

struct Plan {
  ShoalShape shape;
  int64_t rows;
  std::vector<int32_t> blocks;
  std::vector<int64_t> positions;  // where the rows' windows end; none without a window
  std::vector<Piece> pieces;
  std::vector<Tile> tiles;
  std::vector<Task> tasks;     // longest first; each is done once per KV head
  int32_t parts;               // partial results per KV head
  int32_t most_rows;           // query rows of the largest tile, heads of a group folded in

  int32_t group() const { return shape.heads / shape.kv_heads; }

  // How many of the first tokens of an item that begins at `start` the window hides from a row.
  int32_t hidden(int32_t start, int32_t row) const {
    if (positions.empty()) return 0;
    return std::max<int64_t>(0, positions[row] - shape.window + 1 - start);
  }
};

// The first token of an item, which begins at `start`, that any of the rows [row0, row1) sees.
int32_t first_seen(const Plan& plan, int32_t start, int32_t row0, int32_t row1);

Plan make_plan(const ShoalWork& work, const ShoalShape& shape);

}  // namespace shoal
