"""State slots of models with recurrent layers: one for each running sequence and shared segment.

A segment's slot holds the state behind its last token computed; once the segment is complete it is
the snapshot from which all start that stand behind it: inner segments, and sequences with their
first own token. Nobody writes to it any more. It goes with the segment.
"""

from __future__ import annotations

import numpy as np

from shoal.scheduler.pool import BlockPool
from shoal.state_work import FROM_NOTHING
from shoal.types import Int64Array


class StateSlots:
    """Who holds which state slot.

    Attributes:
        pool: its blocks are states.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self._of_segment: dict[int, int] = {}
        self._of_slot: Int64Array = np.full(64, FROM_NOTHING, dtype=np.int64)

    def fits(self, segments: int) -> bool:
        """Whether there is a state for one sequence more, and for so many segments."""
        return self.pool.free_blocks > segments

    def enter(self, slot: int) -> None:
        """A sequence runs in a slot."""
        if slot >= len(self._of_slot):
            more = max(slot + 1, 2 * len(self._of_slot)) - len(self._of_slot)
            self._of_slot = np.pad(self._of_slot, (0, more), constant_values=FROM_NOTHING)
        (self._of_slot[slot],) = self.pool.allocate(1)

    def leave(self, slot: int) -> None:
        """It runs no more."""
        self.pool.release([int(self._of_slot[slot])])
        self._of_slot[slot] = FROM_NOTHING

    def enter_segment(self, segment: int) -> None:
        """A segment becomes resident."""
        (self._of_segment[segment],) = self.pool.allocate(1)

    def evict(self, segment: int) -> None:
        """It is resident no more."""
        self.pool.release([self._of_segment.pop(segment)])

    def of_slots(self, slots: Int64Array) -> Int64Array:
        """The states of running slots, int64."""
        return self._of_slot[slots]

    def of_segments(self, segments: Int64Array) -> Int64Array:
        """The states of segments, int64; `FROM_NOTHING` of -1, the beginning."""
        states = [self._of_segment.get(s, FROM_NOTHING) for s in segments.tolist()]
        return np.array(states, dtype=np.int64)
