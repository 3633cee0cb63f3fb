from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shoal.config import Sharing
from shoal.planner.forest import Forest
from shoal.planner.sharing import FoldCost, Savings, Segments, choose_segments, savings
from tests.planner.jobs import Job, jobs
from tests.planner.test_forest import build

costs = st.builds(
    FoldCost, st.sampled_from([0.0, 0.5, 3.0, 16.0]), st.sampled_from([0.0, 0.3, 2.0])
)


def computed_tokens(job: Job, segments: Segments) -> int:
    """Prompt tokens that a run over these segments computes."""
    shared = np.append(segments.end, 0)[segments.request_segment]
    own = (np.array([len(p) for p in job.prompts]) - shared) * np.array(job.choices)
    return int((segments.end - segments.start).sum() + own.sum())


def path(forest: Forest, node: int) -> list[int]:
    """Nodes from this one up."""
    nodes = []
    while node >= 0:
        nodes.append(node)
        node = int(forest.parent[node])
    return nodes


def subsets(forest: Forest) -> list[tuple[int, ...]]:
    assume(len(forest) <= 8)
    nodes = range(len(forest))
    return list(chain.from_iterable(combinations(nodes, k) for k in range(len(forest) + 1)))


def brute_single(forest: Forest) -> int:
    best = 0
    for chosen in subsets(forest):
        users = dict.fromkeys(chosen, 0)
        for v in range(len(forest)):
            used = next((u for u in path(forest, v) if u in users), None)
            if used is not None:
                users[used] += int(forest.direct[v])
        best = max(best, sum(int(forest.end[v]) * (n - 1) for v, n in users.items()))
    return best


def brute_forest_cost(job: Job, forest: Forest, cost: FoldCost) -> float:
    """The least of computed tokens and overheads over all choices of nodes."""
    best = float("inf")
    for chosen in subsets(forest):
        total = cost.per_segment * len(chosen)
        for v in chosen:
            above = next((u for u in path(forest, v)[1:] if u in chosen), None)
            total += float(forest.end[v] - (forest.end[above] if above is not None else 0))
            total += cost.per_use * float(forest.users[v])
        for r, prompt in enumerate(job.prompts):
            nodes = path(forest, int(forest.request_node[r]))
            used = next((u for u in nodes if u in chosen), None)
            own = len(prompt) - (int(forest.end[used]) if used is not None else 0)
            total += own * job.choices[r]
        best = min(best, total)
    return best


@settings(deadline=None)
@given(jobs(max_requests=8))
def test_single_is_optimal(job: Job) -> None:
    forest = build(job)
    segments = choose_segments(forest, Sharing.single)
    assert segments.saved_tokens == brute_single(forest)


@settings(deadline=None)
@given(jobs(max_requests=8), costs)
def test_forest_is_optimal(job: Job, cost: FoldCost) -> None:
    forest = build(job)
    segments = choose_segments(forest, Sharing.forest, cost)
    total = computed_tokens(job, segments) + cost.per_segment * len(segments.node)
    total += cost.per_use * segments.users.sum()
    assert total == pytest.approx(brute_forest_cost(job, forest, cost))


@settings(deadline=None)
@given(jobs(max_requests=25), st.sampled_from(Sharing), costs)
def test_segments_are_consistent(job: Job, sharing: Sharing, cost: FoldCost) -> None:
    forest = build(job)
    segments = choose_segments(forest, sharing, cost)
    prompt_tokens = sum(len(p) * n for p, n in zip(job.prompts, job.choices, strict=True))
    assert prompt_tokens - segments.saved_tokens == computed_tokens(job, segments)
    assert (segments.users >= 2).all()
    assert (segments.end > segments.start).all()
    users = np.zeros(len(segments.node) + 1, dtype=np.int64)
    for r, segment in enumerate(segments.request_segment):
        if segment >= 0:
            assert segments.node[segment] in path(forest, int(forest.request_node[r]))
        while segment >= 0:
            users[segment] += job.choices[r]
            segment = segments.parent[segment]
    assert users[:-1].tolist() == segments.users.tolist()
    for s, parent in enumerate(segments.parent):
        assert parent < s
        assert segments.start[s] == (segments.end[parent] if parent >= 0 else 0)
        assert segments.level[s] == (segments.level[parent] + 1 if parent >= 0 else 0)


@settings(deadline=None)
@given(jobs(max_requests=25))
def test_modes_are_ranked(job: Job) -> None:
    forest = build(job)
    free = savings(forest, FoldCost(0, 0))
    assert 0 == free.none <= free.paper <= free.single <= free.forest == free.forest_max
    assert savings(forest).forest <= free.forest


class Trie:
    """The paper's rule, as its pseudocode has it, on linked nodes."""

    def __init__(self, tokens: int, users: int) -> None:
        self.tokens, self.users = tokens, users
        self.children: list[Trie] = []

    @classmethod
    def of(cls, forest: Forest) -> Trie:
        nodes = [
            cls(int(e - s), int(n))
            for s, e, n in zip(forest.start, forest.end, forest.users, strict=True)
        ]
        root = cls(0, 0)
        for node, parent in zip(nodes, forest.parent, strict=True):
            (nodes[parent] if parent >= 0 else root).children.append(node)
        return root

    def lift(self) -> None:
        for child in list(self.children):
            child.lift()
            for grandchild in list(child.children):
                if (grandchild.users - 1) * grandchild.tokens > child.tokens:
                    grandchild.tokens += child.tokens
                    child.users -= grandchild.users
                    child.children.remove(grandchild)
                    self.children.append(grandchild)

    def saved(self) -> int:
        return sum(c.tokens * (c.users - 1) for c in self.children if c.users >= 1)


@settings(deadline=None)
@given(jobs(max_requests=25))
def test_paper_follows_its_rule(job: Job) -> None:
    forest = build(job)
    root = Trie.of(forest)
    root.lift()
    assert choose_segments(forest, Sharing.paper).saved_tokens == root.saved()


def test_paper_misses_the_optimum_single_finds() -> None:
    # Two pairs that share 3 tokens each below 4 common ones: each pair alone is not worth a copy
    # of the 4, and once both are lifted the common ones are computed for nobody.
    prompts = [[0] * 4 + [k] * 3 + [9 + i] for k in (1, 2) for i in range(2)]
    forest = build(Job(prompts))
    assert savings(forest) == Savings(none=0, paper=12, single=14, forest=0, forest_max=18)


def test_folding_pays_for_segments() -> None:
    # 100 requests share one token, ten of them 60 more: the token alone is not worth 100 uses.
    prompts = [[1] + [2] * 60 + [10 + i] for i in range(10)] + [[1, 10 + i] for i in range(90)]
    forest = build(Job(prompts))
    assert len(forest) == 2
    folded = choose_segments(forest, Sharing.forest)
    assert folded.end.tolist() == [61]
    assert folded.users.tolist() == [10]
    kept = choose_segments(forest, Sharing.forest, FoldCost(0, 0))
    assert kept.end.tolist() == [1, 61]
    assert kept.parent.tolist() == [-1, 0]
