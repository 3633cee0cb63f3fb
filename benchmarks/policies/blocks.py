"""KV blocks with reference counts, an index of full blocks by their hash, and LRU eviction."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from shoal.errors import InternalError
from shoal.types import Int32Array

Hash = int
"""Of a full block's tokens and of all blocks before it: equal hashes, equal KV."""


def block_hashes(tokens: Int32Array, block_size: int, known: Sequence[Hash] = ()) -> list[Hash]:
    """A hash for each full block of `tokens`, chained from the first.

    Args:
        tokens: int32 [any], from the beginning of the sequence.
        known: the hashes of the first blocks, where they were computed before.
    """
    hashes = list(known)
    data, width = tokens.tobytes(), block_size * tokens.itemsize
    for at in range(len(hashes) * width, len(data) - width + 1, width):
        hashes.append(hash((hashes[-1] if hashes else 0, data[at : at + width])))
    return hashes


class PrefixCache:
    """A pool of KV blocks that remembers what the free ones still hold.

    A block nobody holds is free. If it is indexed it waits at the back of the free queue and can be
    taken again by its hash, until it comes to the front and is given away; the others wait at the
    front. Blocks are released last first, so that the end of a sequence is forgotten before its
    beginning.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._users = [0] * num_blocks
        self._hash: list[Hash | None] = [None] * num_blocks
        self._block: dict[Hash, int] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks nobody holds, whether indexed or not."""
        return len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold `tokens` tokens."""
        return -(-tokens // self.block_size)

    def match(self, hashes: Sequence[Hash]) -> list[int]:
        """The blocks of the longest run of hashes, from the first, that are indexed."""
        found = []
        for one in hashes:
            block = self._block.get(one)
            if block is None:
                break
            found.append(block)
        return found

    def free_among(self, blocks: Sequence[int]) -> int:
        """How many of these blocks nobody holds."""
        return sum(self._users[block] == 0 for block in blocks)

    def hold(self, blocks: Sequence[int]) -> None:
        """One more user for each of these indexed blocks."""
        for block in blocks:
            if self._users[block] == 0:
                del self._free[block]
            self._users[block] += 1

    def allocate(self, count: int) -> list[int]:
        """Take free blocks, the least recently used first; what they held is forgotten.

        The caller checks `free_blocks` first.
        """
        blocks = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._users[block] = 1
            blocks.append(block)
        return blocks

    def index(self, block: int, block_hash: Hash) -> None:
        """Let others find a full block. Of equal blocks the first stays in the index."""
        if block_hash not in self._block:
            self._block[block_hash] = block
            self._hash[block] = block_hash

    def release(self, blocks: Sequence[int]) -> None:
        """One user less for each of a sequence's blocks, given in the order of its tokens."""
        for block in reversed(blocks):
            self._users[block] -= 1
            if self._users[block] < 0:
                raise InternalError(f"KV block {block} freed twice")
            if self._users[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=self._hash[block] is not None)

    def _forget(self, block: int) -> None:
        known = self._hash[block]
        if known is not None:
            del self._block[known]
            self._hash[block] = None
