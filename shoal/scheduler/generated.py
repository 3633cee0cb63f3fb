"""The tokens that sequences have generated, kept in pages, appended for many at once."""

from __future__ import annotations

import numpy as np

from shoal.slots import SlotMap
from shoal.types import Int32Array, Int64Array

_PAGE = 64
"""Tokens. A sequence wastes half a page; one in so many needs a page in an iteration."""


class GeneratedTokens:
    """What each sequence that has begun and not ended has generated, as far as it is settled."""

    def __init__(self) -> None:
        self._slots = SlotMap()
        self._count: Int64Array = np.zeros(self._slots.capacity, dtype=np.int64)
        self._next: Int64Array = np.zeros(self._slots.capacity, dtype=np.int64)
        """Where the next token of a slot goes, unless it needs another page."""
        self._pages: list[list[int]] = []
        """Of each slot that was ever taken."""
        self._free: list[int] = []
        self._tokens: Int32Array = np.zeros(0, dtype=np.int32)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._slots

    def append(self, sequences: Int32Array | Int64Array, token_ids: Int32Array) -> Int64Array:
        """One token more for each of the sequences, all different.

        Returns:
            How many each has now, int64 [S].
        """
        slots = self._slots.find(sequences)
        new = np.flatnonzero(slots < 0)
        if len(new):
            slots[new] = [self._begin(sequence) for sequence in sequences[new].tolist()]
        count = self._count[slots]
        for slot in slots[count % _PAGE == 0].tolist():
            self._add_page(slot)
        at = self._next[slots]
        self._tokens[at] = token_ids
        self._next[slots] = at + 1
        count += 1
        self._count[slots] = count
        return count

    def forget(self, sequence: int) -> None:
        """A sequence has ended; without effect where it has generated nothing."""
        if sequence in self._slots:
            slot = self._slots.remove(sequence)
            self._free += self._pages[slot]
            self._pages[slot] = []

    def count(self, sequence: int) -> int:
        """How many tokens a sequence has; 0 before its first."""
        return int(self._count[self._slots[sequence]]) if sequence in self._slots else 0

    def counts(self, sequences: Int64Array) -> Int64Array:
        """The same for many, int64 [R]."""
        slots = self._slots.find(sequences)
        counts: Int64Array = np.where(slots < 0, 0, self._count[slots])
        return counts

    def token(self, sequence: int, index: int) -> int:
        """Token id of one that is known."""
        page = self._pages[self._slots[sequence]][index // _PAGE]
        return int(self._tokens[page * _PAGE + index % _PAGE])

    def tokens(self, sequence: int) -> Int32Array:
        """All that a sequence has generated, int32, a copy."""
        if sequence not in self._slots:
            return np.zeros(0, dtype=np.int32)
        slot = self._slots[sequence]
        pages = self._tokens.reshape(-1, _PAGE)[self._pages[slot]]
        return pages.reshape(-1)[: int(self._count[slot])]

    def _begin(self, sequence: int) -> int:
        slot = self._slots.add(sequence)
        if slot >= len(self._count):
            more = np.zeros(self._slots.capacity - len(self._count), dtype=np.int64)
            self._count, self._next = (
                np.concatenate([column, more]) for column in (self._count, self._next)
            )
        if slot >= len(self._pages):
            self._pages += [[] for _ in range(slot + 1 - len(self._pages))]
        self._count[slot] = 0
        return slot

    def _add_page(self, slot: int) -> None:
        if not self._free:
            held = len(self._tokens) // _PAGE
            more = max(64, held)
            self._tokens = np.concatenate([self._tokens, np.zeros(more * _PAGE, dtype=np.int32)])
            self._free = list(range(held + more - 1, held - 1, -1))
        page = self._free.pop()
        self._pages[slot].append(page)
        self._next[slot] = page * _PAGE
