"""The work list of segment attention: which rows of a token batch attend to which KV."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shoal.types import BoolArray, Int32Array, Int64Array


@dataclass(frozen=True)
class Window:
    """What a row sees of the keys before it.

    Attributes:
        tokens: at least 1; how many at most, its own the last.
        chunked: only those of its own chunk, of all the chunks of so many tokens from position 0.
    """

    tokens: int
    chunked: bool = False

    def last(self, positions: Int64Array) -> Int64Array:
        """Where the `tokens` keys end of which a row sees the first: its position or its chunk's
        end. Positions are -1 where nothing is hidden, and stay so."""
        if not self.chunked:
            return positions
        ends: Int64Array = positions - positions % self.tokens + self.tokens - 1
        return ends

    def first(self, positions: Int64Array) -> Int64Array:
        """The first position that a row at each position sees, at least 0."""
        return np.maximum(self.last(positions) - self.tokens + 1, 0)

    def most_blocks(self, block_size: int) -> int:
        """Most blocks that an owner of KV holds of which no row sees more: of its tokens and of two
        under way, one since they need not begin with a block, one to go on into."""
        return -(-(self.tokens + 2) // block_size) + 2

    def blind_from(self, limits: Int64Array) -> Int64Array:
        """From which position on rows see no key at a position below each limit; limits >= 0."""
        if self.chunked:
            return -(-limits // self.tokens) * self.tokens
        return limits + self.tokens - 1


@dataclass(frozen=True)
class SegmentWork:
    """I items: the rows [row_first, row_last) attend to `kv_tokens` tokens of a segment.

    Made by the scheduler for a token batch, read by the attention kernels. Rows are ordered along
    the plan, so the users of a segment are one range of rows. A row attends to the union of its
    items: its ancestors' segments whole, its own causally. A window may hide some of it.

    Attributes:
        num_rows: T, query rows in all.
        row_first, row_last: int32 [I].
        kv_tokens: int32 [I], at least 0.
        starts: int32 [I], the position of the item's first token in the sequences of its rows.
        causal: bool [I]; of a causal item with n rows, row i sees kv_tokens - n + i + 1 tokens.
        block_offsets: int64 [I + 1]; item i's tokens fill blocks[block_offsets[i]:] in order, and
            the last is the number of blocks.
        blocks: int32; block b holds the pool's slots b * block_size ... + block_size - 1.
        block_size: token slots per block.
    """

    num_rows: int
    row_first: Int32Array
    row_last: Int32Array
    kv_tokens: Int32Array
    starts: Int32Array
    causal: BoolArray
    block_offsets: Int64Array
    blocks: Int32Array
    block_size: int

    def __len__(self) -> int:
        return len(self.row_first)

    @cached_property
    def positions(self) -> Int64Array:
        """Where each row stands in its sequence, by its causal item; int64 [T], -1 without one."""
        own = np.flatnonzero(self.causal)
        counts = (self.row_last - self.row_first)[own].astype(np.int64)
        item = np.repeat(own, counts)
        place = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
        found = np.full(self.num_rows, -1, dtype=np.int64)
        before = self.starts.astype(np.int64) + self.kv_tokens - (self.row_last - self.row_first)
        found[self.row_first[item] + place] = before[item] + place
        return found

    @cached_property
    def _furthest(self) -> int:
        return int(self.positions.max(initial=-1))

    def hides(self, window: Window | None) -> bool:
        """Whether a window is shorter than what some row has before it."""
        return window is not None and self._furthest >= window.tokens

    def hidden(self, item: int, window: Window) -> Int64Array:
        """How many of an item's first tokens a window hides from each of its rows; int64."""
        rows = slice(int(self.row_first[item]), int(self.row_last[item]))
        last = window.last(self.positions[rows])
        beyond = last - window.tokens + 1 - int(self.starts[item])
        return np.clip(beyond, 0, int(self.kv_tokens[item]))

    def hidden_pairs(self, window: Window) -> tuple[Int64Array, Int64Array]:
        """What a window hides of each item, int64 [I] each: pairs of a row and a token, and tokens
        that no row of the item sees."""
        rows = (self.row_last - self.row_first).astype(np.int64)
        item = np.repeat(np.arange(len(self)), rows)
        first = np.cumsum(rows) - rows
        row = self.row_first[item] + np.arange(len(item)) - first[item]
        seen_from = window.last(self.positions)[row] - window.tokens + 1
        tokens = self.kv_tokens[item].astype(np.int64)
        # A chunk's rows do not have the tokens behind their own.
        tokens -= np.where(self.causal[item], self.row_last[item] - 1 - row, 0)
        beyond = np.clip(seen_from - self.starts[item], 0, tokens)
        pairs = np.zeros(len(self), dtype=np.int64)
        np.add.at(pairs, item, beyond)
        unseen = self.kv_tokens.astype(np.int64)
        np.minimum.at(unseen, item, beyond)
        return pairs, unseen

    def slots(self, item: int, first: int = 0, last: int | None = None) -> Int64Array:
        """Pool slots of an item's tokens [first, last), int64."""
        last = int(self.kv_tokens[item]) if last is None else last
        token = np.arange(first, last)
        blocks = self.blocks[self.block_offsets[item] + token // self.block_size]
        slots: Int64Array = blocks.astype(np.int64) * self.block_size + token % self.block_size
        return slots

    def only(self, rows: Int64Array) -> SegmentWork:
        """The same attention for some of the rows, which are numbered anew.

        Args:
            rows: int64 [R], ascending, all different.
        """
        first, last = np.searchsorted(rows, self.row_first), np.searchsorted(rows, self.row_last)
        # A causal item becomes one item per row: what is left of a chunk has gaps.
        copies = np.where(self.causal, last - first, last > first)
        item = np.repeat(np.arange(len(self)), copies)
        offset = np.arange(len(item)) - np.repeat(np.cumsum(copies) - copies, copies)
        causal = self.causal[item]
        row_first = np.where(causal, first[item] + offset, first[item])
        row_last = np.where(causal, row_first + 1, last[item])
        unseen = np.where(causal, self.row_last[item] - 1 - rows[row_first], 0)
        return SegmentWork(
            num_rows=len(rows),
            row_first=row_first.astype(np.int32),
            row_last=row_last.astype(np.int32),
            kv_tokens=(self.kv_tokens[item] - unseen).astype(np.int32),
            starts=self.starts[item],
            causal=causal,
            block_offsets=np.append(self.block_offsets[item], len(self.blocks)),
            blocks=self.blocks,
            block_size=self.block_size,
        )


def own_rows(work: SegmentWork) -> Int64Array:
    """Where the rows of each sequence or segment begin in a batch, and where the last end.

    Each has one causal item, for its own tokens.
    """
    begins = work.row_first[work.causal].astype(np.int64)
    return np.append(np.sort(begins), work.num_rows)
