"""The shared segments of a plan while it runs: who still needs them, where their KV is."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.ledger import BlockLedger
from shoal.scheduler.state_slots import StateSlots
from shoal.types import BoolArray, Int64Array


class SegmentTable:
    """Reference counts and progress of every shared segment.

    A segment takes its blocks when its first user is admitted and gives them back with the last
    user to finish. Between, it may be evicted only while no running sequence uses it; its KV is
    then computed again for whoever comes next.

    Columns (all [segments]; only the methods here write them):
        parent: the segment it continues; -1 at the top level.
        start, length: its tokens' first position, and how many there are.
        first_user: its first sequence in the plan's order.
        computed: tokens whose KV is in the pool.
        unfinished: users that have not finished.
        running: users that run.
        stays: how often it came into the pool.
    """

    def __init__(
        self, plan: Plan, ledgers: list[BlockLedger], states: StateSlots | None = None
    ) -> None:
        """Nothing is in the pool.

        Args:
            ledgers: of each group of layers, where the KV is.
            states: of recurrent layers; None: there are none.
        """
        self._take_columns(plan)
        self.computed: Int64Array = np.zeros(plan.num_segments, dtype=np.int64)
        self.unfinished: Int64Array = (plan.segment_last - plan.segment_first).astype(np.int64)
        self.running: Int64Array = np.zeros(plan.num_segments, dtype=np.int64)
        self.stays: Int64Array = np.zeros(plan.num_segments, dtype=np.int64)
        self._resident: set[int] = set()
        self._ledgers, self._states = ledgers, states

    def _take_columns(self, plan: Plan) -> None:
        self.parent = plan.segment_parent
        self.start = plan.segment_start
        self.length = plan.segment_length
        self.first_user = plan.segment_first

    def replan(self, plan: Plan, first: int) -> None:
        """Take another plan, the same up to segment `first`; nobody has used those from there."""
        self._take_columns(plan)
        self.unfinished[first:] = plan.segment_users[first:]

    def path(self, segment: int) -> list[int]:
        """Segment ids from the top level down to `segment`; [] for -1."""
        path = []
        while segment >= 0:
            path.append(segment)
            segment = int(self.parent[segment])
        return path[::-1]

    def resident(self, segments: Int64Array) -> BoolArray:
        """Whether each of the segments is in the pool."""
        return np.array([each in self._resident for each in segments.tolist()], dtype=np.bool_)

    def missing_lengths(self, path: list[int]) -> list[int]:
        """Tokens of each segment of a path that is not resident."""
        return [int(self.length[segment]) for segment in path if segment not in self._resident]

    def has_states(self, path: list[int]) -> bool:
        """Whether there are states for a sequence behind a path, and for what of it is missing."""
        if self._states is None:
            return True
        return self._states.fits(sum(segment not in self._resident for segment in path))

    def enter(self, path: list[int]) -> None:
        """One more running user; segments not resident take their blocks."""
        for segment in path:
            self.running[segment] += 1
            if segment not in self._resident:
                self._resident.add(segment)
                self.stays[segment] += 1
                for ledger in self._ledgers:
                    ledger.enter(segment, int(self.length[segment]))
                if self._states is not None:
                    self._states.enter_segment(segment)

    def leave(self, path: list[int], *, finished: bool) -> None:
        """A running user is gone, for good or preempted."""
        for segment in path:
            self.running[segment] -= 1
        if finished:
            self.user_finished(path)

    def user_finished(self, path: list[int]) -> None:
        """One user less for ever; the last one frees the segment."""
        for segment in path:
            self.unfinished[segment] -= 1
            if self.unfinished[segment] == 0 and segment in self._resident:
                self.evict(segment)

    def evict(self, segment: int) -> None:
        """Give the blocks back; the KV is lost."""
        self._resident.remove(segment)
        self.computed[segment] = 0
        for ledger in self._ledgers:
            ledger.evict(segment)
        if self._states is not None:
            self._states.evict(segment)

    def evict_idle(self, keep: list[int], wanted: list[int]) -> int:
        """Evict segments no running sequence uses, `keep` excepted, till `wanted` blocks are free.

        And, where layers have states, till there are some for `keep` and a sequence.

        Those of the latest groups go first: they are needed last.

        Args:
            wanted: in each ledger.

        Returns:
            How many segments must be computed again for it.
        """
        again = 0
        idle = sorted(
            (s for s in self._resident if self.running[s] == 0 and s not in keep), reverse=True
        )
        for segment in idle:
            free = (ledger.pool.free_blocks for ledger in self._ledgers)
            room = all(have >= need for have, need in zip(free, wanted, strict=True))
            if room and self.has_states(keep):
                break
            again += int(self.computed[segment] > 0)
            self.evict(segment)
        return again

    def advance(self, segments: Int64Array, count: Int64Array) -> None:
        """So many tokens more have their KV in the pool."""
        self.computed[segments] += count

    def rewind(self, segments: Int64Array, first: Int64Array) -> None:
        """The KV of tokens from `first` on is not in the pool."""
        self.computed[segments] = np.minimum(self.computed[segments], first)

    def missing_tokens(self, segment: int) -> int:
        """Tokens whose KV is not in the pool."""
        return int(self.length[segment] - self.computed[segment])
