"""Which blocks hold what, in one group of layers whose KV lives and dies together."""

from __future__ import annotations

import numpy as np

from shoal.errors import InternalError
from shoal.scheduler.forecast import PeakForecast
from shoal.scheduler.pool import BlockPool
from shoal.types import BoolArray, Int32Array, Int64Array

_RESERVED = 8
"""One part in so many of a windowed pool is left to prompts on their way, at most."""


class BlockLedger:
    """The blocks of running sequences, by slot, and of shared segments, in one group of layers.

    Owners have tables: entry i is the block of an owner's tokens from i * block_size on. Layers
    that see everything take the blocks of all known tokens when a sequence is admitted, and of a
    segment when its first user is. With a window they take them as chunks are planned, and give
    back, when a batch is settled, what no row to come can see: of a segment that is computed, its
    users' rows begin behind it, and of a sequence, where it is. So entries before `freed` are gone.

    An owner of n tokens holds `most_blocks(n)` at most, but for the chunk under way.
    """

    def __init__(self, pool: BlockPool, token_budget: int) -> None:
        self.pool, self.window = pool, pool.window
        self.block_size = pool.block_size
        self._cap: int | None = None
        self._reserve = 0
        if self.window is not None:
            self._cap = self.window.most_blocks(self.block_size)
            self._reserve = min(pool.blocks_for(token_budget), pool.num_blocks // _RESERVED)
        self.num_blocks: Int64Array = np.zeros(64, dtype=np.int64)
        self._freed: Int64Array = np.zeros(64, dtype=np.int64)
        self._blocks: Int32Array = np.zeros((64, 8), dtype=np.int32)
        self._segments: dict[int, Int32Array] = {}
        self._segment_freed: dict[int, int] = {}
        self._resident: dict[int, int] = {}
        self.resident_blocks = 0
        """What the segments in the pool hold once they are computed."""

    @property
    def windowed(self) -> bool:
        """Whether tokens die before their owner."""
        return self.window is not None

    def most_blocks(self, tokens: int) -> int:
        """Most blocks that an owner of so many tokens holds."""
        blocks = self.pool.blocks_for(tokens)
        return blocks if self._cap is None else min(blocks, self._cap)

    def forecast(self, held: Int64Array, growth: Int64Array, caution: float) -> PeakForecast:
        """The peak of running sequences; see `PeakForecast`."""
        return PeakForecast(held, growth, self.block_size, caution, self._cap)

    def available(self, missing: int) -> int:
        """Blocks for running sequences, beside the segments there are and `missing` more."""
        return self.pool.num_blocks - self._reserve - self.resident_blocks - missing

    def missing_blocks(self, lengths: list[int]) -> int:
        """Blocks that segments of so many tokens, none of them in the pool, will hold."""
        return sum(map(self.most_blocks, lengths))

    def admit(self, slot: int, tokens: int) -> None:
        """A sequence of `tokens` known tokens of its own gets a slot."""
        while slot >= len(self.num_blocks):
            self._grow()
        self.num_blocks[slot] = self._freed[slot] = 0
        if not self.windowed:
            self._append(slot, self.pool.allocate(self.pool.blocks_for(tokens)))

    def leave(self, slot: int) -> None:
        """A slot is given back, its blocks with it."""
        held = self._blocks[slot, self._freed[slot] : self.num_blocks[slot]]
        self.pool.release(held.tolist())
        self.num_blocks[slot] = self._freed[slot] = 0

    def has_room(self, slots: Int64Array, tokens: Int64Array) -> BoolArray:
        """Whether there is a block for each slot's last token, bool [slots].

        Args:
            tokens: int64 [slots], all of its own that a slot knows of.
        """
        room: BoolArray = tokens <= self.num_blocks[slots] * self.block_size
        return room

    def append_block(self, slots: Int64Array) -> None:
        """One more block for each slot."""
        blocks = self.pool.allocate(len(slots))
        last = self.num_blocks[slots]
        self._widen(int(last.max(initial=0)) + 1)
        self._blocks[slots, last] = blocks
        self.num_blocks[slots] = last + 1

    def enter(self, segment: int, length: int) -> None:
        """A segment gets a first running user."""
        self._resident[segment] = self.most_blocks(length)
        self.resident_blocks += self._resident[segment]
        blocks = [] if self.windowed else self.pool.allocate(self.pool.blocks_for(length))
        self._segments[segment] = np.array(blocks, dtype=np.int32)
        self._segment_freed[segment] = 0

    def evict(self, segment: int) -> None:
        """A segment's KV is lost."""
        blocks = self._segments.pop(segment)[self._segment_freed.pop(segment) :]
        self.resident_blocks -= self._resident.pop(segment)
        self.pool.release(blocks.tolist())

    def segment_held(self, segment: int) -> int:
        """Blocks in a segment's table, freed ones counted."""
        return len(self._segments[segment])

    def segment_table(self, segment: int) -> tuple[int, Int32Array]:
        """How many of a segment's first blocks are gone, and the others."""
        freed = self._segment_freed[segment]
        return freed, self._segments[segment][freed:]

    def extend_segments(self, segments: Int64Array, ends: Int64Array) -> None:
        """Have blocks for the tokens of segments before `ends`, int64 [segments]."""
        for segment, end in zip(segments.tolist(), ends.tolist(), strict=True):
            held = self._segments[segment]
            more = self.pool.blocks_for(end) - len(held)
            if more > 0:
                blocks = np.array(self.pool.allocate(more), dtype=np.int32)
                self._segments[segment] = np.concatenate([held, blocks])

    def extend_slots(self, slots: Int64Array, ends: Int64Array) -> None:
        """Have blocks for the own tokens of slots before `ends`, int64 [slots]."""
        lacks = ~self.has_room(slots, ends)
        for slot, end in zip(slots[lacks].tolist(), ends[lacks].tolist(), strict=True):
            more = self.pool.blocks_for(end) - int(self.num_blocks[slot])
            self._append(slot, self.pool.allocate(more))

    def free_slots(self, slots: Int64Array, starts: Int64Array, ends: Int64Array) -> None:
        """Own tokens before `ends` are computed for good: free what no row from there on sees.

        Args:
            starts: int64 [slots], the position of each slot's first own token.
        """
        dead = self._dead(starts, ends)
        some = np.flatnonzero(dead > self._freed[slots])
        for slot, last in zip(slots[some].tolist(), dead[some].tolist(), strict=True):
            self.pool.release(self._blocks[slot, self._freed[slot] : last].tolist())
            self._freed[slot] = last

    def free_segments(self, segments: Int64Array, starts: Int64Array, ends: Int64Array) -> None:
        """The same for shared segments."""
        dead = self._dead(starts, ends)
        for segment, last in zip(segments.tolist(), dead.tolist(), strict=True):
            freed = self._segment_freed[segment]
            if last > freed:
                self.pool.release(self._segments[segment][freed:last].tolist())
                self._segment_freed[segment] = last

    def _dead(self, starts: Int64Array, ends: Int64Array) -> Int64Array:
        """How many whole blocks of an owner that starts there are out of sight of rows from its
        token `ends` on."""
        if self.window is None:
            raise InternalError("KV of layers that see everything was to be freed")
        unseen = self.window.first(starts + ends) - starts
        dead: Int64Array = np.minimum(np.maximum(unseen, 0), ends) // self.block_size
        return dead

    def tables(self, slots: Int64Array, ends: Int64Array) -> tuple[Int64Array, Int32Array]:
        """Of each slot the blocks that are gone, int64 [slots], and the others before `ends`, flat.

        Args:
            ends: int64 [slots], in blocks.
        """
        # All slots at once, through a mask as wide as the longest: they are many, and alike.
        freed = self._freed[slots]
        width = np.arange(int(ends.max(initial=0)))
        table = self._blocks[slots, : len(width)]
        mask = width < ends[:, None]
        if self.windowed:
            mask &= width >= freed[:, None]
        return freed, table[mask]

    def _append(self, slot: int, blocks: list[int]) -> None:
        first = int(self.num_blocks[slot])
        last = first + len(blocks)
        self._widen(last)
        self._blocks[slot, first:last] = blocks
        self.num_blocks[slot] = last

    def _widen(self, most: int) -> None:
        held = self._blocks.shape[1]
        if most > held:
            self._blocks = np.pad(self._blocks, ((0, 0), (0, max(most, 2 * held) - held)))

    def _grow(self) -> None:
        more = len(self.num_blocks)
        self.num_blocks = np.pad(self.num_blocks, (0, more))
        self._freed = np.pad(self._freed, (0, more))
        self._blocks = np.pad(self._blocks, ((0, more), (0, 0)))


class ChunkRoom:
    """What the free blocks of windowed groups leave to the chunks of one batch."""

    def __init__(self, ledgers: list[BlockLedger]) -> None:
        self._ledgers = [ledger for ledger in ledgers if ledger.windowed]
        self._left = [ledger.pool.free_blocks for ledger in self._ledgers]

    def fitting(self, owner: int, first: int, count: int, *, shared: bool) -> int:
        """How many of `count` tokens of an owner, from `first` on, there is room for."""
        for ledger, left in zip(self._ledgers, self._left, strict=True):
            blocks = left + self._held(ledger, owner, shared)
            count = min(count, blocks * ledger.block_size - first)
        return count

    def take(self, owner: int, end: int, *, shared: bool) -> None:
        """An owner gets the blocks of its tokens before `end`."""
        for index, ledger in enumerate(self._ledgers):
            more = ledger.pool.blocks_for(end) - self._held(ledger, owner, shared)
            self._left[index] -= max(more, 0)

    @staticmethod
    def _held(ledger: BlockLedger, owner: int, shared: bool) -> int:
        return ledger.segment_held(owner) if shared else int(ledger.num_blocks[owner])
