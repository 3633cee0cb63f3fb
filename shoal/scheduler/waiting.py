"""The sequences that wait: those that never ran, and those that were preempted."""

from __future__ import annotations

import heapq

import numpy as np

from shoal.types import Int64Array


class WaitingSequences:
    """Gives out sequences in the plan's order, preempted ones again, cancelled ones never."""

    def __init__(self) -> None:
        self.begun = 0
        """The first sequence of the plan that was never admitted, cancelled or not."""
        self._preempted: list[int] = []
        self._cancelled: set[int] = set()

    @property
    def first_untouched(self) -> int:
        """The first sequence of the plan from which on none was ever admitted or cancelled."""
        return max(self.begun, max(self._cancelled, default=-1) + 1)

    @property
    def preempted(self) -> Int64Array:
        """Those that were preempted and wait, in no order."""
        return np.array(self._preempted, dtype=np.int64)

    def head(self, count: int) -> int | None:
        """Who comes next, of a plan of `count` sequences; None: nobody waits."""
        while self._preempted and self._preempted[0] in self._cancelled:
            heapq.heappop(self._preempted)
        while self.begun in self._cancelled:
            self.begun += 1
        if self._preempted:
            return self._preempted[0]
        return self.begun if self.begun < count else None

    def take(self, head: int) -> bool:
        """The head is admitted; returns whether for the first time."""
        if self._preempted and self._preempted[0] == head:
            heapq.heappop(self._preempted)
            return False
        self.begun += 1
        return True

    def give_back(self, sequence: int) -> None:
        """A running sequence was preempted."""
        heapq.heappush(self._preempted, sequence)

    def cancel(self, sequence: int) -> None:
        """Never give it out again."""
        self._cancelled.add(sequence)

    def is_cancelled(self, sequence: int) -> bool:
        """Whether `cancel` was called for it."""
        return sequence in self._cancelled

    def __contains__(self, sequence: int) -> bool:
        """Whether it waits."""
        return sequence not in self._cancelled and (
            sequence >= self.begun or sequence in self._preempted
        )
