"""The work list of segment attention: which rows of a token batch attend to which KV."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.types import BoolArray, Int32Array, Int64Array


@dataclass(frozen=True)
class SegmentWork:
    """I items: the rows [row_first, row_last) attend to `kv_tokens` tokens of a segment.

    Made by the scheduler for a token batch, read by the attention kernels. Rows are ordered along
    the plan, so the users of a segment are one range of rows. A row attends to the union of its
    items: its ancestors' segments whole, its own causally.

    Attributes:
        num_rows: T, query rows in all.
        row_first, row_last: int32 [I].
        kv_tokens: int32 [I], at least 0.
        causal: bool [I]; of a causal item with n rows, row i sees kv_tokens - n + i + 1 tokens.
        block_offsets: int64 [I + 1]; item i's tokens fill blocks[block_offsets[i]:] in order.
        blocks: int32; block b holds the pool's slots b * block_size ... + block_size - 1.
        block_size: token slots per block.
    """

    num_rows: int
    row_first: Int32Array
    row_last: Int32Array
    kv_tokens: Int32Array
    causal: BoolArray
    block_offsets: Int64Array
    blocks: Int32Array
    block_size: int

    def __len__(self) -> int:
        return len(self.row_first)

    def slots(self, item: int, first: int = 0, last: int | None = None) -> Int64Array:
        """Pool slots of an item's tokens [first, last), int64."""
        last = int(self.kv_tokens[item]) if last is None else last
        token = np.arange(first, last)
        blocks = self.blocks[self.block_offsets[item] + token // self.block_size]
        slots: Int64Array = blocks.astype(np.int64) * self.block_size + token % self.block_size
        return slots
