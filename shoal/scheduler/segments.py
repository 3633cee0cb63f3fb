"""The shared segments of a plan while it runs: who still needs them, where their KV is."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.pool import BlockPool
from shoal.types import Int32Array, Int64Array


class SegmentTable:
    """Reference counts, blocks and progress of every shared segment.

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
    """

    def __init__(self, plan: Plan, pool: BlockPool) -> None:
        self._take_columns(plan)
        self.computed: Int64Array = np.zeros(plan.num_segments, dtype=np.int64)
        self.unfinished: Int64Array = (plan.segment_last - plan.segment_first).astype(np.int64)
        self.running: Int64Array = np.zeros(plan.num_segments, dtype=np.int64)
        self.blocks: dict[int, Int32Array] = {}
        self.resident_blocks = 0
        self._pool = pool

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

    def missing_blocks(self, path: list[int]) -> int:
        """Blocks needed to make every segment of a path resident."""
        return sum(
            self._pool.blocks_for(int(self.length[segment]))
            for segment in path
            if segment not in self.blocks
        )

    def enter(self, path: list[int]) -> None:
        """One more running user; segments not resident take their blocks."""
        for segment in path:
            self.running[segment] += 1
            if segment not in self.blocks:
                count = self._pool.blocks_for(int(self.length[segment]))
                self.blocks[segment] = np.array(self._pool.allocate(count), dtype=np.int32)
                self.resident_blocks += count

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
            if self.unfinished[segment] == 0 and segment in self.blocks:
                self.evict(segment)

    def evict(self, segment: int) -> None:
        """Give the blocks back; the KV is lost."""
        blocks = self.blocks.pop(segment)
        self.resident_blocks -= len(blocks)
        self.computed[segment] = 0
        self._pool.release(blocks.tolist())

    def evict_idle(self, keep: list[int], wanted: int) -> int:
        """Evict segments no running sequence uses, `keep` excepted, till `wanted` blocks are free.

        Those of the latest groups go first: they are needed last.

        Returns:
            How many segments must be computed again for it.
        """
        again = 0
        idle = sorted(
            (s for s in self.blocks if self.running[s] == 0 and s not in keep), reverse=True
        )
        for segment in idle:
            if self._pool.free_blocks >= wanted:
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
