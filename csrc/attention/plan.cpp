#include "attention/plan.h"

#include <algorithm>
#include <cstring>

namespace shoal {
namespace {

constexpr int32_t kQueryRows = 96;    // query rows of a tile, heads of a group folded in
constexpr int64_t kLeastPart = 1024;  // keys x rows / 16 below which a split does not pay
constexpr int32_t kTasksPerThread = 4;

// Cuts the rows into tiles of at most `most` rows, where possible at the edge of an item.
std::vector<Tile> cut_rows(const ShoalWork& work, int32_t most) {
  std::vector<uint8_t> edge(work.rows + 1, 0);
  for (int64_t i = 0; i < work.items; i++) {
    if (work.row_last[i] - work.row_first[i] < 2) continue;
    edge[work.row_first[i]] = edge[work.row_last[i]] = 1;
  }
  std::vector<Tile> tiles;
  for (int32_t row = 0; row < work.rows;) {
    int32_t last = std::min<int64_t>(row + most, work.rows);
    for (int32_t cut = last; cut > row + most / 2; cut--)
      if (edge[cut]) {
        last = cut;
        break;
      }
    tiles.push_back({row, last, 1, 0});
    row = last;
  }
  return tiles;
}

int64_t cost_of(const Piece& piece) {
  // A tile of the matrix units has 16 rows, however few are used.
  int64_t rows = (piece.row1 - piece.row0 + 15) / 16 * 16;
  return rows * (piece.key1 - piece.key0 + 32);
}

// Cuts a tile's pieces into `parts` runs of like cost, cutting inside a piece where needed.
void split(std::vector<Piece> pieces, int32_t tile, int32_t parts, Plan& plan) {
  int64_t total = 0;
  for (const Piece& piece : pieces) total += cost_of(piece);
  int64_t share = total / parts + 1, spent = 0;
  int32_t part = 0, first = plan.pieces.size();
  auto close = [&] {
    plan.tasks.push_back({tile, part++, first, int32_t(plan.pieces.size()), spent});
    first = plan.pieces.size();
    spent = 0;
  };
  for (Piece piece : pieces) {
    while (part + 1 < parts && spent + cost_of(piece) > share) {
      int64_t rows = (piece.row1 - piece.row0 + 15) / 16 * 16;
      int32_t keys = std::max<int64_t>(0, (share - spent) / rows) / SHOAL_BLOCK * SHOAL_BLOCK;
      if (keys > 0 && piece.key0 + keys < piece.key1) {
        Piece head = piece;
        head.key1 = piece.key0 + keys;
        plan.pieces.push_back(head);
        spent += cost_of(head);
        piece.key0 = head.key1;
      }
      close();
    }
    plan.pieces.push_back(piece);
    spent += cost_of(piece);
  }
  close();
  while (part < parts) close();
}

}  // namespace

int32_t first_seen(const Plan& plan, int32_t start, int32_t row0, int32_t row1) {
  int32_t least = plan.hidden(start, row0);
  for (int32_t row = row0 + 1; row < row1 && least > 0; row++)
    least = std::min(least, plan.hidden(start, row));
  return least;
}

Plan make_plan(const ShoalWork& work, const ShoalShape& shape) {
  Plan plan{shape, work.rows, {}, {}, {}, {}, {}, 0, 0};
  if (shape.window > 0) plan.positions.assign(work.positions, work.positions + work.rows);
  int32_t group = plan.group();
  plan.blocks.assign(work.blocks, work.blocks + work.block_offsets[work.items]);

  // Few rows: smaller tiles, so that every thread has some.
  int64_t want = int64_t(shape.threads) * kTasksPerThread;
  int64_t most = std::max(1, kQueryRows / group);
  int64_t least = std::max(1, 32 / group);
  most = std::clamp(work.rows * shape.kv_heads / std::max<int64_t>(want, 1), std::min(least, most),
                    most);
  plan.tiles = cut_rows(work, most);

  std::vector<std::vector<Piece>> pieces(plan.tiles.size());
  std::vector<int32_t> tile_of(work.rows);
  for (size_t t = 0; t < plan.tiles.size(); t++)
    for (int32_t r = plan.tiles[t].row0; r < plan.tiles[t].row1; r++) tile_of[r] = t;
  for (int64_t i = 0; i < work.items; i++) {
    int32_t first = work.row_first[i], last = work.row_last[i];
    const int32_t* blocks = plan.blocks.data() + work.block_offsets[i];
    for (int32_t row = first; row < last;) {
      int32_t t = tile_of[row], end = std::min(last, plan.tiles[t].row1);
      int32_t keys = work.kv_tokens[i], visible = keys - (last - first) + (row - first) + 1;
      if (work.causal[i]) keys = visible + (end - row) - 1;
      int32_t key0 = first_seen(plan, work.starts[i], row, end) / SHOAL_BLOCK * SHOAL_BLOCK;
      if (key0 < keys)
        pieces[t].push_back({row, end, key0, keys, work.causal[i], visible, work.starts[i], blocks});
      row = end;
    }
  }

  int64_t total = 0;
  std::vector<int64_t> costs(plan.tiles.size(), 0);
  for (size_t t = 0; t < plan.tiles.size(); t++) {
    for (const Piece& piece : pieces[t]) costs[t] += cost_of(piece);
    total += costs[t];
    plan.most_rows = std::max(plan.most_rows, (plan.tiles[t].row1 - plan.tiles[t].row0) * group);
  }
  int64_t fair = std::max<int64_t>(total * shape.kv_heads / std::max<int64_t>(want, 1), 16 * kLeastPart);
  for (size_t t = 0; t < plan.tiles.size(); t++) {
    Tile& tile = plan.tiles[t];
    // The last task to start should not keep the others waiting: none above a fair share.
    tile.parts = shape.threads > 1 ? std::max<int64_t>(1, costs[t] / fair) : 1;
    tile.first_part = plan.parts;
    if (tile.parts > 1) plan.parts += tile.parts;
    split(std::move(pieces[t]), t, tile.parts, plan);
  }
  std::stable_sort(plan.tasks.begin(), plan.tasks.end(),
                   [](const Task& a, const Task& b) { return a.cost > b.cost; });
  return plan;
}

}  // namespace shoal
