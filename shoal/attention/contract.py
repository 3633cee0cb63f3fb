"""The contract every segment attention kernel keeps.

For a query row q and a segment s of keys K_s and values V_s, with scores z_s = scale * K_s q:

    l_s = logsumexp(z_s)        (natural logarithm)
    o_s = softmax(z_s) V_s

and over all segments S of the row, merged in float32:

    l = logsumexp_s(l_s),  o = sum_s exp(l_s - l) * o_s

which equals attention over the concatenation of the segments (Juravsky et al., Hydragen, 2024;
BatchLLM, MLSys 2026). A segment of no tokens has l_s = -inf and adds nothing; a row with no keys
at all gives zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from shoal.types import BoolArray, Int32Array, Int64Array


@dataclass(frozen=True)
class SegmentWork:
    """I items: the rows [row_first, row_last) attend to `kv_tokens` tokens of a segment.

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


class AttentionBackend(Protocol):
    """A kernel. `prepare` once per token batch, then call once per layer."""

    name: str

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """Whatever the kernel derives from the work list; passed back to `__call__`."""

    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prepared: object,
        scale: float,
    ) -> torch.Tensor:
        """Attention of all rows over all their segments.

        Args:
            query: [heads, T, head_dim].
            keys: [kv_heads, slots, head_dim], one layer of the pool; heads is a multiple of
                kv_heads, query head h reads KV head h // (heads // kv_heads).
            values: [kv_heads, slots, value_dim].
            prepared: what `prepare` returned for this batch.
            scale: factor on the scores.

        Returns:
            [T, heads, value_dim] in the query's dtype.
        """
