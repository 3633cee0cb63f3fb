"""Shapes of segment attention to time: who attends to what, and what that costs at least."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.work import SegmentWork

BLOCK = 32
"""Tokens per KV block."""


@dataclass(frozen=True)
class Heads:
    """The heads of a model's attention."""

    heads: int
    kv_heads: int
    dim: int


@dataclass(frozen=True)
class Shape:
    """`segments` of `shared` tokens, each used by `users` of `rows` rows and `own` tokens.

    `own` counts the rows themselves.
    """

    name: str
    segments: int
    shared: int
    users: int
    rows: int
    own: int

    @property
    def requests(self) -> int:
        """Users of all segments."""
        return self.segments * self.users

    @property
    def num_rows(self) -> int:
        """Query rows in all."""
        return self.requests * self.rows

    @property
    def pairs(self) -> int:
        """(query, key) pairs of one head."""
        triangle = self.rows * self.own - self.rows * (self.rows - 1) // 2
        return self.requests * (self.rows * self.shared + triangle)

    def flops(self, heads: Heads) -> int:
        """A pair costs a product with the key and one with the value."""
        return 4 * heads.dim * heads.heads * self.pairs

    def kv_bytes(self, heads: Heads, itemsize: int = 2) -> int:
        """KV read at least once."""
        tokens = self.segments * (self.shared + self.users * self.own)
        return tokens * heads.kv_heads * heads.dim * 2 * itemsize

    def row_bytes(self, heads: Heads, itemsize: int = 2) -> int:
        """Queries read and results written."""
        return 2 * self.num_rows * heads.heads * heads.dim * itemsize

    @property
    def num_blocks(self) -> int:
        """KV blocks of all segments and users."""
        return self.segments * (_blocks(self.shared) + self.users * _blocks(self.own))

    def items(self, causal: bool | None = None) -> list[tuple[int, int, int, bool]]:
        """(first row, last row, tokens, causal) of each item, a segment's after its users'.

        `causal`: only users' own items, or only those of segments; None: all.
        """
        found = []
        for segment in range(self.segments):
            first = segment * self.users * self.rows
            for user in range(self.users):
                row = first + user * self.rows
                found.append((row, row + self.rows, self.own, True))
            if self.shared:
                found.append((first, first + self.users * self.rows, self.shared, False))
        return [item for item in found if causal is None or item[3] == causal]

    def work(self, causal: bool | None = None) -> SegmentWork:
        """The work list over blocks in a random order, the same for every `causal`."""
        blocks = np.random.default_rng(0).permutation(self.num_blocks).astype(np.int32)
        everything = self.items()
        ends = np.cumsum([_blocks(tokens) for *_, tokens, _ in everything])
        where = {
            item[:2] + item[3:]: blocks[end - _blocks(item[2]) : end]
            for item, end in zip(everything, ends.tolist(), strict=True)
        }
        items = self.items(causal)
        parts = [where[item[:2] + item[3:]] for item in items]
        return SegmentWork(
            num_rows=self.num_rows,
            row_first=np.array([i[0] for i in items], np.int32),
            row_last=np.array([i[1] for i in items], np.int32),
            kv_tokens=np.array([i[2] for i in items], np.int32),
            starts=np.array([self.shared if i[3] else 0 for i in items], np.int32),
            causal=np.array([i[3] for i in items], np.bool_),
            block_offsets=np.cumsum([0, *(len(part) for part in parts)]).astype(np.int64),
            blocks=np.concatenate([np.zeros(0, np.int32), *parts]),
            block_size=BLOCK,
        )


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)
