from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, combinations
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.workloads import common_prefix
from shoal.config import Sharing
from shoal.costs import Costs
from shoal.planner.folding import FoldCost
from shoal.planner.forest import Forest
from shoal.planner.sharing import Savings, Segments, choose_segments, savings
from shoal.types import Int32Array
from tests.helpers.planner_jobs import Job, jobs
from tests.planner.test_forest import build

constants = st.sampled_from([0.0, 0.3, 3.0, 16.0])
rates = st.sampled_from([0.0, 0.1, 1.5])
costs = st.builds(FoldCost, constants, constants, rates, rates, rates, rates)

Prefix = tuple[int, ...]


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


def outputs(job: Job) -> Int32Array:
    return job.table.expected_new_tokens


def users(job: Job, prefix: Prefix) -> list[int]:
    """Requests that begin with a prefix."""
    return [r for r, p in enumerate(job.prompts) if tuple(p[: len(prefix)]) == prefix]


def sequences(job: Job, prefix: Prefix) -> int:
    return sum(job.choices[r] for r in users(job, prefix))


def branching_prefixes(job: Job) -> list[Prefix]:
    """Prefixes of two sequences or more that are as long as their sequences agree."""
    ends = {tuple(p) for p, n in zip(job.prompts, job.choices, strict=True) if n > 1}
    for a, b in combinations(job.prompts, 2):
        ends.add(tuple(a[: common_prefix(a, b)]))
    return sorted(ends - {()})


def all_prefixes(job: Job) -> list[Prefix]:
    """Every prefix of two sequences or more."""
    found = {tuple(p[:k]) for p in job.prompts for k in range(1, len(p) + 1)}
    return sorted(p for p in found if sequences(job, p) > 1)


def subsets(prefixes: list[Prefix], most: int = 8) -> list[tuple[Prefix, ...]]:
    assume(len(prefixes) <= most)
    counts = range(len(prefixes) + 1)
    return list(chain.from_iterable(combinations(prefixes, k) for k in counts))


def deepest(chosen: Iterable[Prefix], path: Sequence[int]) -> Prefix:
    """The longest chosen prefix of a path; () where there is none."""
    return max((p for p in chosen if tuple(path[: len(p)]) == p), key=len, default=())


def single_cost(job: Job, chosen: tuple[Prefix, ...]) -> int:
    """Tokens computed when each sequence uses one chosen prefix, and each is computed whole."""
    own = sum(
        n * (len(p) - len(deepest(chosen, p)))
        for p, n in zip(job.prompts, job.choices, strict=True)
    )
    return own + sum(map(len, chosen))


def forest_cost(job: Job, chosen: tuple[Prefix, ...], cost: FoldCost) -> float:
    """What a run over nested segments costs by the model of `fold_weights`, term by term."""
    total = 0.0
    for prefix in chosen:
        below = users(job, prefix)
        lives = max(job.expected[r] for r in below)
        rows = sum(job.expected[r] * job.choices[r] for r in below)
        total += cost.per_segment + cost.per_use * sequences(job, prefix)
        total += cost.per_iteration * lives + cost.per_step * rows
        tokens = len(prefix) - len(deepest((p for p in chosen if p != prefix), prefix))
        total += tokens * (1 + max(cost.per_read * lives, cost.per_pair * rows))
    for r, prompt in enumerate(job.prompts):
        own = len(prompt) - len(deepest(chosen, prompt))
        reads = max(cost.per_read, cost.per_pair) * job.expected[r]
        total += own * job.choices[r] * (1 + reads)
    return total


def chosen_prefixes(job: Job, forest: Forest, segments: Segments) -> tuple[Prefix, ...]:
    ends = zip(forest.request[segments.node], segments.end, strict=True)
    return tuple(tuple(job.prompts[r][:end]) for r, end in ends)


@settings(deadline=None)
@given(jobs(max_requests=8))
def test_single_is_optimal(job: Job) -> None:
    forest = build(job)
    segments = choose_segments(forest, Sharing.single)
    best = min(single_cost(job, chosen) for chosen in subsets(branching_prefixes(job)))
    assert single_cost(job, chosen_prefixes(job, forest, segments)) == best
    assert computed_tokens(job, segments) == best


@settings(deadline=None)
@given(jobs(max_requests=8), costs)
def test_forest_is_optimal(job: Job, cost: FoldCost) -> None:
    forest = build(job)
    segments = choose_segments(forest, Sharing.forest, cost, outputs(job))
    best = min(forest_cost(job, chosen, cost) for chosen in subsets(branching_prefixes(job)))
    ours = chosen_prefixes(job, forest, segments)
    assert forest_cost(job, ours, cost) == pytest.approx(best)
    if not any(vars(cost).values()):
        assert computed_tokens(job, segments) == best


@settings(deadline=None)
@given(jobs(max_requests=5, max_runs=1), costs)
def test_no_segment_need_end_inside_an_edge(job: Job, cost: FoldCost) -> None:
    forest = build(job)
    choices = subsets(all_prefixes(job), most=9)
    single = choose_segments(forest, Sharing.single)
    assert computed_tokens(job, single) == min(single_cost(job, chosen) for chosen in choices)
    nested = choose_segments(forest, Sharing.forest, cost, outputs(job))
    ours = forest_cost(job, chosen_prefixes(job, forest, nested), cost)
    assert ours == pytest.approx(min(forest_cost(job, chosen, cost) for chosen in choices))


@pytest.mark.long
@settings(deadline=None)
@given(jobs(max_requests=12), costs, st.randoms())
def test_choice_does_not_depend_on_the_input_order(
    job: Job, cost: FoldCost, random: Random
) -> None:
    order = random.sample(range(len(job.prompts)), len(job.prompts))
    kept = []
    for each in (job, job.permuted(order)):
        forest = build(each)
        segments = choose_segments(forest, Sharing.forest, cost, outputs(each))
        kept.append(chosen_prefixes(each, forest, segments))
    assert kept[0] == kept[1]


@pytest.mark.long
@settings(deadline=None)
@given(jobs(max_requests=25), st.sampled_from(Sharing), costs)
def test_segments_are_consistent(job: Job, sharing: Sharing, cost: FoldCost) -> None:
    forest = build(job)
    segments = choose_segments(forest, sharing, cost, outputs(job))
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


@pytest.mark.long
@settings(deadline=None)
@given(jobs(max_requests=25), costs)
def test_modes_are_ranked(job: Job, cost: FoldCost) -> None:
    forest = build(job)
    ranked = savings(forest)
    assert 0 == ranked.none <= ranked.paper <= ranked.single <= ranked.forest == ranked.forest_max
    assert savings(forest, cost, outputs(job)).forest <= ranked.forest


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


@pytest.mark.long
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
    saved = savings(forest, FoldCost(16, 2))
    assert saved == Savings(none=0, paper=12, single=14, forest=0, forest_max=18)


def test_folding_pays_for_segments() -> None:
    # 100 requests share one token, ten of them 60 more: the token alone is not worth 100 uses.
    prompts = [[1] + [2] * 60 + [10 + i] for i in range(10)] + [[1, 10 + i] for i in range(90)]
    forest = build(Job(prompts))
    assert len(forest) == 2
    folded = choose_segments(forest, Sharing.forest, FoldCost(16, 2))
    assert folded.end.tolist() == [61]
    assert folded.users.tolist() == [10]
    kept = choose_segments(forest, Sharing.forest)
    assert kept.end.tolist() == [1, 61]
    assert kept.parent.tolist() == [-1, 0]


# A token of prefill takes 1 ms; reading its KV 1 us, a pair of query and KV 0.5 us.
MACHINE = Costs(
    flops_per_token=1e8,
    head_flops=1e7,
    attention_flops=5e4,
    weight_bytes=1e8,
    kv_bytes=1e4,
    flops_per_second=1e11,
    bytes_per_second=1e10,
    segment_seconds=1e-3,
    use_seconds=1e-5,
)


def test_constants_are_tokens_of_prefill() -> None:
    cost = FoldCost.of(MACHINE)
    assert cost.per_segment == cost.per_use == 0
    assert [cost.per_iteration, cost.per_step] == pytest.approx([1.0, 0.01])
    assert [cost.per_read, cost.per_pair] == pytest.approx([1e-3, 5e-4])


def test_long_outputs_fold_more() -> None:
    # Two pairs share 100 tokens, and 64 more each.
    pairs = [[0] * 100 + [k] * 64 + [9 + i] for k in (1, 2) for i in range(2)]
    kept = {}
    for output in (8, 80, 800):
        job = Job(pairs, expected=[output] * 4)
        segments = choose_segments(build(job), Sharing.forest, FoldCost.of(MACHINE), outputs(job))
        kept[output] = segments.end.tolist()
    assert kept == {8: [100, 164, 164], 80: [100], 800: []}


def test_reading_keeps_long_segments_shared() -> None:
    # 10,000 tokens for two, and outputs so long that a segment costs more than their prefill.
    job = Job([[0] * 10_000 + [1 + i] for i in range(2)], expected=[20_000] * 2)
    cost = FoldCost.of(MACHINE)
    forest = build(job)
    assert len(choose_segments(forest, Sharing.forest, cost, outputs(job)).node) == 1
    blind = replace(cost, per_read=0.0, per_pair=0.0)
    assert len(choose_segments(forest, Sharing.forest, blind, outputs(job)).node) == 0
