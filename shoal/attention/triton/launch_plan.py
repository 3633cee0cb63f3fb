"""From a work list to tasks: tiles of rows by ranges of keys, longest first. Pure arithmetic.

A *piece* is one range of keys of one item. The ranges are the same for all tiles of an item, so a
row has one partial result per piece that it sees any key of, whichever tiles its heads fall into.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from shoal.types import Int32Array, Int64Array
from shoal.work import SegmentWork, Window

SHORT = 16
"""Folded rows of the low tile: the least a matrix instruction takes."""
WAVES = 2
"""Keys are split so that every program gets about this many tasks of the longest kind."""
LEAST_KEYS = 256
"""No key range shorter than this is made by splitting: its partial result would cost more
traffic than the split saves time."""
_EVERYTHING = 1 << 30


class Field(IntEnum):
    """Columns of a task record, int32.

    ROW_FIRST, ROWS: the rows of the item.
    FOLD_FIRST: the tile's first folded row, counted from the item's first row.
    KEY_FIRST, KEY_LAST: the range of the item's tokens.
    DIAGONAL: row i of the item sees the tokens below DIAGONAL + i.
    BLOCKS: where the item's blocks begin.
    SLOT: row i's partial result goes to slot SLOT + i; -1: it is the whole result.
    TALL: 1 for the high tile, 0 for one of SHORT folded rows.
    START: the position of the item's first token.
    """

    ROW_FIRST = 0
    ROWS = 1
    FOLD_FIRST = 2
    KEY_FIRST = 3
    KEY_LAST = 4
    DIAGONAL = 5
    BLOCKS = 6
    SLOT = 7
    TALL = 8
    START = 9


@dataclass(frozen=True)
class Geometry:
    """What decides the tasks of a work list.

    Attributes:
        kv_heads: each task is done once per KV head.
        group: query heads per KV head, folded into the rows.
        rows, keys: of a high tile; rows at least `SHORT`.
        programs: of the persistent grid.
        window: what a row sees of the keys before it; None: all.
    """

    kv_heads: int
    group: int
    rows: int
    keys: int
    programs: int
    window: Window | None = None


@dataclass(frozen=True)
class TaskPlan:
    """The tasks of a work list, and which partial results make up which row.

    Attributes:
        records: int32 [tasks, len(Field)], longest first.
        merge_rows: int32 [M], ascending: rows that no task writes whole, those without keys too.
        merge_offsets: int32 [M + 1]; the parts of merge_rows[i] are
            merge_slots[merge_offsets[i]:merge_offsets[i + 1]].
        merge_slots: int32.
        num_slots: partial results in all, per head.
    """

    records: Int32Array
    merge_rows: Int32Array
    merge_offsets: Int32Array
    merge_slots: Int32Array
    num_slots: int


def plan_tasks(work: SegmentWork, geometry: Geometry, num_rows: int | None = None) -> TaskPlan:
    """The tasks of `work`.

    Args:
        num_rows: rows to account for, if more than the work's; those beyond have no keys.
    """
    items = _Items(work, geometry)
    length = _range_length(items, geometry)
    pieces = _Pieces(items, length)
    rows = work.num_rows if num_rows is None else num_rows
    parts = _running_sum(pieces.row_first, pieces.row_last, rows)
    direct = _direct_items(items, pieces, parts)
    partial = ~direct[pieces.item]
    size = np.where(partial, items.rows[pieces.item], 0)
    slot = np.where(partial, np.cumsum(size) - size, -1)
    whole = _running_sum(items.row_first[direct], items.row_last[direct], rows)
    merge_rows = np.flatnonzero(whole == 0)
    return TaskPlan(
        records=_records(items, pieces, slot, geometry),
        merge_rows=merge_rows.astype(np.int32),
        merge_offsets=_offsets(parts[merge_rows]).astype(np.int32),
        merge_slots=_merge_slots(items, pieces, slot, partial),
        num_slots=int(size.sum()),
    )


def rows_per_key(work: SegmentWork, group: int) -> float:
    """Folded query rows that a key is multiplied with, in the mean over all keys read.

    It is the arithmetic intensity of the batch: about as many operations per byte of 16-bit keys
    and values.
    """
    rows = (work.row_last - work.row_first).astype(np.int64) * group
    keys = work.kv_tokens.astype(np.int64)
    return float(rows @ keys) / max(int(keys.sum()), 1)


class _Items:
    """The items that have rows and keys; int64 columns."""

    def __init__(self, work: SegmentWork, geometry: Geometry) -> None:
        has_rows = work.row_last > work.row_first
        hidden = np.zeros(len(work), dtype=np.int64)
        self._window, self._lowest = geometry.window, np.zeros(0, dtype=np.int64)
        if geometry.window is not None:
            last = geometry.window.last(work.positions)
            self._lowest = last - geometry.window.tokens + 1
            bounds = work.row_first[has_rows], work.row_last[has_rows]
            least = _least(self._lowest, *(bound.astype(np.int64) for bound in bounds))
            hidden[has_rows] = np.maximum(least - work.starts[has_rows], 0)
        real = np.flatnonzero(has_rows & (work.kv_tokens > hidden))
        self.row_first = work.row_first[real].astype(np.int64)
        self.row_last = work.row_last[real].astype(np.int64)
        self.rows = self.row_last - self.row_first
        self.keys = work.kv_tokens[real].astype(np.int64)
        self.blocks = work.block_offsets[real]
        self.starts = work.starts[real].astype(np.int64)
        # Where its first range begins: no row sees a key before.
        self.key_first = hidden[real] // geometry.keys * geometry.keys
        causal = work.causal[real]
        self.diagonal = np.where(causal, self.keys - self.rows + 1, _EVERYTHING)
        self.folds = self.rows * geometry.group
        self.tall = self.folds > SHORT
        self.height = np.where(self.tall, geometry.rows, SHORT)
        self.tiles = -(-self.folds // self.height)
        self.mean_keys = self.keys - np.where(causal, (self.rows - 1) // 2, 0)
        if geometry.window is not None:
            of_tile = geometry.window.tokens + self.height // geometry.group
            self.mean_keys = np.minimum(self.mean_keys, of_tile)

    def hidden(self, item: Int64Array, row_first: Int64Array, row_last: Int64Array) -> Int64Array:
        """How many of the first tokens of items the window hides from all of some of their rows.

        Args:
            row_first, row_last: rows of each item, counted from its first.
        """
        if self._window is None:
            return np.zeros(len(item), dtype=np.int64)
        before = self.row_first[item]
        least = _least(self._lowest, before + row_first, before + row_last)
        found: Int64Array = np.maximum(least - self.starts[item], 0)
        return found

    def blind_from(self, item: Int64Array, key_last: Int64Array) -> Int64Array:
        """From which of its rows on an item sees no key below key_last; of causal items only.

        The rows of others stand anywhere: what they do not see, they merge as nothing.
        """
        rows = self.rows[item]
        diagonal = self.diagonal[item]
        if self._window is None:
            return rows
        starts = self.starts[item]
        blind = self._window.blind_from(starts + key_last) - starts - diagonal + 1
        last = np.where(diagonal == _EVERYTHING, rows, blind)
        seeing: Int64Array = np.clip(last, 0, rows)
        return seeing


class _Pieces:
    """Ranges of keys of items; int64 columns."""

    def __init__(self, items: _Items, length: Int64Array) -> None:
        self.item, number = _expand(-(-(items.keys - items.key_first) // length))
        step = length[self.item]
        self.key_first = items.key_first[self.item] + number * step
        self.key_last = np.minimum(items.keys[self.item], self.key_first + step)
        # The rows that see a key of the range: without a window, up to the last.
        self.skipped = np.maximum(self.key_first - items.diagonal[self.item] + 1, 0)
        self.row_first = items.row_first[self.item] + self.skipped
        self.seen = items.blind_from(self.item, self.key_last)
        self.row_last = items.row_first[self.item] + self.seen


def _range_length(items: _Items, geometry: Geometry) -> Int64Array:
    """Keys of a range, for each item: a multiple of the tile's.

    A tile of either height takes about the same time per key: the low one waits for memory, and
    the high one computes for as long. So keys are what is shared out.
    """
    total = int((items.tiles * items.mean_keys).sum()) * geometry.kv_heads
    longest = max(total / (geometry.programs * WAVES), LEAST_KEYS)
    keys = items.keys - items.key_first
    splits = np.minimum(np.rint(keys / longest).astype(np.int64), keys // LEAST_KEYS)
    length = -(-keys // np.maximum(splits, 1))
    rounded: Int64Array = -(-length // geometry.keys) * geometry.keys
    return rounded


def _direct_items(items: _Items, pieces: _Pieces, parts: Int64Array) -> np.ndarray:
    """Whether an item is all that its rows attend to, in one piece: bool."""
    others = np.concatenate([[0], np.cumsum(parts != 1)])
    alone: np.ndarray = others[items.row_last] == others[items.row_first]
    # With a window each of its rows may see one piece only, and not the same.
    found: np.ndarray = alone & (np.bincount(pieces.item, minlength=len(alone)) == 1)
    return found


def _records(items: _Items, pieces: _Pieces, slot: Int64Array, geometry: Geometry) -> Int32Array:
    piece, tile = _expand(items.tiles[pieces.item])
    item = pieces.item[piece]
    fold_first = tile * items.height[item]
    fold_last = np.minimum(fold_first + items.height[item], items.folds[item])
    # Keys beyond what the tile's last row sees are nobody's.
    seen = items.diagonal[item] + (fold_last - 1) // geometry.group
    key_first = pieces.key_first[piece]
    row_first, row_last = fold_first // geometry.group, -(-fold_last // geometry.group)
    hidden = items.hidden(item, row_first, row_last) // geometry.keys * geometry.keys
    key_first = np.maximum(key_first, hidden)
    # A tile may have rows whose part is awaited though none of them sees a key.
    awaited = (row_first < pieces.seen[piece]) & (row_last > pieces.skipped[piece])
    steps = -(-(np.minimum(pieces.key_last[piece], seen) - key_first) // geometry.keys)
    # A sort of uint16 is linear; longer tasks than it can tell apart do not occur.
    order = np.argsort(
        np.uint16(0xFFFF) - np.clip(steps, 0, 0xFFFF).astype(np.uint16), kind="stable"
    )
    order = order[awaited[order]]
    item, piece = item[order], piece[order]
    records = np.empty((len(order), len(Field)), dtype=np.int32)
    records[:, Field.ROW_FIRST] = items.row_first[item]
    records[:, Field.ROWS] = items.rows[item]
    records[:, Field.FOLD_FIRST] = fold_first[order]
    records[:, Field.KEY_FIRST] = key_first[order]
    records[:, Field.KEY_LAST] = np.minimum(pieces.key_last[piece], seen[order])
    records[:, Field.DIAGONAL] = items.diagonal[item]
    records[:, Field.BLOCKS] = items.blocks[item]
    records[:, Field.SLOT] = slot[piece]
    records[:, Field.TALL] = items.tall[item]
    records[:, Field.START] = items.starts[item]
    return records


def _merge_slots(
    items: _Items, pieces: _Pieces, slot: Int64Array, partial: np.ndarray
) -> Int32Array:
    """The slots of every row's parts, by row, then by slot."""
    chosen = np.flatnonzero(partial)
    index, offset = _expand(pieces.row_last[chosen] - pieces.row_first[chosen])
    piece = chosen[index]
    row = pieces.row_first[piece] + offset
    at = slot[piece] + row - items.row_first[pieces.item[piece]]
    # The low half is the slot. A stable sort merges what is in order, as each item's rows are.
    return np.sort(row << 32 | at, kind="stable").astype(np.int32)


def _least(numbers: Int64Array, first: Int64Array, last: Int64Array) -> Int64Array:
    """The least of numbers[first:last], for each range; none is empty."""
    if len(first) == 0:
        return np.zeros(0, dtype=np.int64)
    bounds = np.column_stack([first, last]).reshape(-1)
    padded = np.append(numbers, np.iinfo(np.int64).max)
    found: Int64Array = np.minimum.reduceat(padded, bounds)[::2]
    return found


def _expand(counts: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Index i counts[i] times, and the number of each copy among its like."""
    index = np.repeat(np.arange(len(counts)), counts)
    number: Int64Array = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
    return index, number


def _offsets(counts: Int64Array) -> Int64Array:
    return np.concatenate([[0], np.cumsum(counts)])


def _running_sum(first: Int64Array, last: Int64Array, size: int) -> Int64Array:
    """How many of the ranges [first, last) cover each of `size` slots."""
    steps = np.bincount(first, minlength=size + 1) - np.bincount(last, minlength=size + 1)
    covered: Int64Array = np.cumsum(steps[:size])
    return covered
