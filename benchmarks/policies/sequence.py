"""A sequence as the baselines see it: its tokens, its KV blocks, how far it is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from benchmarks.policies.blocks import Hash, block_hashes
from shoal.types import Int32Array


@dataclass(eq=False)
class Sequence:
    """One choice of one request.

    Attributes:
        number: its place in the order the requests come.
        tokens: int32 [prompt + most it may generate]; the first `known` are known.
        prompt: tokens of the prompt.
        computed: tokens whose KV is in the pool.
        blocks: int32 [what all tokens need]; the first `num_blocks` are held.
        hashes: of the full blocks of known tokens, as far as they were asked for.
        indexed: full blocks that others can find.
    """

    number: int
    tokens: Int32Array
    prompt: int
    known: int
    blocks: Int32Array
    computed: int = 0
    num_blocks: int = 0
    hashes: list[Hash] = field(default_factory=list)
    indexed: int = 0

    @classmethod
    def waiting(cls, number: int, prompt: Int32Array, most_new: int, block_size: int) -> Sequence:
        """A sequence of which nothing is computed."""
        room = len(prompt) + most_new
        tokens = np.zeros(room, dtype=np.int32)
        tokens[: len(prompt)] = prompt
        blocks = np.zeros(-(-room // block_size), dtype=np.int32)
        return cls(number, tokens, len(prompt), len(prompt), blocks)

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return self.known - self.prompt

    @property
    def held(self) -> Int32Array:
        """The blocks it holds, a view."""
        return self.blocks[: self.num_blocks]

    def hash_full_blocks(self, block_size: int) -> list[Hash]:
        """The hashes of all full blocks of known tokens."""
        if (len(self.hashes) + 1) * block_size <= self.known:
            self.hashes = block_hashes(self.tokens[: self.known], block_size, self.hashes)
        return self.hashes

    def append_blocks(self, blocks: list[int]) -> None:
        """Hold more blocks, after those it holds."""
        self.blocks[self.num_blocks : self.num_blocks + len(blocks)] = blocks
        self.num_blocks += len(blocks)

    def append_token(self, token: int) -> None:
        """Take a sampled token."""
        self.tokens[self.known] = token
        self.known += 1

    def drop_blocks(self) -> list[int]:
        """Hold nothing any more; returns the blocks it held."""
        blocks: list[int] = self.held.tolist()
        self.num_blocks = self.computed = self.indexed = 0
        return blocks
