from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.planner.folding import FoldCost
from shoal.planner.forest import Forest
from shoal.planner.order import arrange
from shoal.planner.sharing import Segments, choose_segments
from shoal.planner.tree import Tree
from tests.helpers.planner_jobs import Job, jobs
from tests.planner.test_forest import build


class Naive:
    """The order by plain recursion over lists."""

    def __init__(self, job: Job, forest: Forest, segments: Segments, order: Order) -> None:
        self.job, self.forest, self.segments, self.order = job, forest, segments, order

    def children(self, segment: int) -> list[tuple[str, int]]:
        below = [("segment", s) for s, p in enumerate(self.segments.parent) if p == segment]
        requests = enumerate(self.segments.request_segment)
        return below + [("request", r) for r, s in requests if s == segment]

    def requests(self, child: tuple[str, int]) -> list[int]:
        kind, index = child
        if kind == "request":
            return [index]
        return [r for c in self.children(index) for r in self.requests(c)]

    def prefill(self, child: tuple[str, int]) -> int:
        kind, index = child
        if kind == "segment":
            own = int(self.segments.end[index] - self.segments.start[index])
            return own + sum(self.prefill(c) for c in self.children(index))
        segment = self.segments.request_segment[index]
        shared = int(self.segments.end[segment]) if segment >= 0 else 0
        return (len(self.job.prompts[index]) - shared) * self.job.choices[index]

    def key(self, child: tuple[str, int]) -> tuple[float, int]:
        requests = self.requests(child)
        rank = min(int(self.forest.rank[r]) for r in requests)
        if child[0] == "segment":  # also of what a deeper segment took away
            rank = int(self.forest.first[self.segments.node[child[1]]])
        if self.order is Order.input:
            return (min(requests), rank)
        output = sum(self.job.expected[r] * self.job.choices[r] for r in requests)
        prefill = self.prefill(child)
        return (-output / prefill if prefill else -math.inf, rank)

    def walk(self, segment: int = -1) -> list[int]:
        """Requests in order."""
        walked = []
        for kind, index in sorted(self.children(segment), key=self.key):
            walked += [index] if kind == "request" else self.walk(index)
        return walked


@pytest.mark.long
@settings(deadline=None)
@given(
    jobs(max_requests=20),
    st.sampled_from(Sharing),
    st.sampled_from([Order.ratio, Order.input]),
    st.booleans(),
)
def test_order_is_the_plain_recursion(job: Job, sharing: Sharing, order: Order, fold: bool) -> None:
    forest = build(job)
    segments = choose_segments(forest, sharing, FoldCost(16, 2) if fold else FoldCost())
    arrangement = arrange(Tree.of_segments(job.table, forest, segments), order)
    naive = Naive(job, forest, segments, order)
    expected, index = [-1] * len(job.prompts), 0
    for request in naive.walk():
        expected[request] = index
        index += job.choices[request]
    assert arrangement.request_first.tolist() == expected
    for s, first in zip(arrangement.source, arrangement.first, strict=True):
        assert first == min(expected[r] for r in naive.requests(("segment", s)))


def test_decode_heavy_groups_go_first() -> None:
    light, heavy = [1] * 30, [2] * 30
    job = Job(
        words=[[*light, 3], [*light, 4], [*heavy, 3], [*heavy, 4], [5] * 40, [6] * 2],
        expected=[2, 3, 50, 60, 1, 4],
    )
    forest = build(job)
    segments = choose_segments(forest, Sharing.forest)
    assert len(segments.node) == 2
    ratio = arrange(Tree.of_segments(job.table, forest, segments), Order.ratio)
    # heavy 110/32, then the short one 4/2, light 5/32, the long one 1/40; inside, larger first
    assert ratio.request_first.tolist() == [4, 3, 1, 0, 5, 2]
    given_order = arrange(Tree.of_segments(job.table, forest, segments), Order.input)
    assert given_order.request_first.tolist() == [0, 1, 2, 3, 4, 5]
