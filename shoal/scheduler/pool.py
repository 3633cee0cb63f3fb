"""The paged KV pool's bookkeeping: which blocks are free. The tensors live in the engine."""

from __future__ import annotations

import heapq

from shoal.costs import BLOCK_SIZE
from shoal.errors import InternalError
from shoal.work import Window


class BlockPool:
    """Hands out blocks of `block_size` token slots; never more than `num_blocks` at a time.

    The lowest free numbers go first, so that segments tend to be runs of neighbouring blocks,
    which attention can read without gathering.
    """

    def __init__(
        self, num_blocks: int, block_size: int = BLOCK_SIZE, window: Window | None = None
    ) -> None:
        """`window`: of the layers whose KV it holds; None: they see all tokens."""
        if num_blocks < 1 or block_size < 1:
            raise InternalError(f"a pool of {num_blocks} blocks of {block_size} tokens is no pool")
        self.num_blocks = num_blocks
        self.block_size, self.window = block_size, window
        self.peak_blocks = 0
        self._held = bytearray(num_blocks)
        self._untouched = 0
        """Blocks from here on were never handed out: a pool may have millions."""
        self._returned: list[int] = []
        """A heap; all below `_untouched`."""

    @property
    def free_blocks(self) -> int:
        """Blocks nobody holds."""
        return self.num_blocks - self._untouched + len(self._returned)

    @property
    def used_blocks(self) -> int:
        """Blocks in use."""
        return self._untouched - len(self._returned)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, lowest numbers first.

        Raises:
            InternalError: fewer are free; callers check `free_blocks` first.
        """
        if count > self.free_blocks:
            raise InternalError(f"{count} KV blocks asked for, {self.free_blocks} free")
        again = min(count, len(self._returned))
        blocks = [heapq.heappop(self._returned) for _ in range(again)]
        blocks += range(self._untouched, self._untouched + count - again)
        self._untouched += count - again
        for block in blocks:
            self._held[block] = True
        self.peak_blocks = max(self.peak_blocks, self.used_blocks)
        return blocks

    def release(self, blocks: list[int]) -> None:
        """Give blocks back.

        Raises:
            InternalError: one of them is free already.
        """
        for block in blocks:
            if not self._held[block]:
                raise InternalError(f"KV block {block} freed twice")
            self._held[block] = False
            heapq.heappush(self._returned, block)
