"""Pairs of rows and keys, and the work of a job, against counts row by row and key by key."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Sharing
from shoal.costs import AttentionCost, Costs, Expanding
from shoal.planner.folding import FoldCost, fold_weights
from shoal.planner.seen_pairs import pairs_before
from shoal.planner.sharing import choose_segments
from shoal.planner.tree import Tree
from shoal.planner.work_counts import request_work, segment_work, windows_of
from shoal.work import Window
from tests.helpers.planner_jobs import Job, jobs
from tests.planner.test_blend import COSTS
from tests.planner.test_forest import build

windows = st.none() | st.builds(Window, st.integers(1, 9), st.booleans())


def sees(window: Window | None, row: int, key: int) -> bool:
    """By the definitions of the kinds of attention."""
    if window is None or key > row:
        return key <= row
    if window.chunked:
        return row // window.tokens == key // window.tokens
    return row - key < window.tokens


def seen(window: Window | None, rows: range, keys: range) -> int:
    return sum(sees(window, row, key) for row in rows for key in keys)


@given(windows, st.integers(0, 30), st.integers(0, 30))
def test_pairs_are_those_counted_one_by_one(window: Window | None, rows: int, keys: int) -> None:
    found = pairs_before(window, np.array([rows]), np.array([keys]))
    assert found.tolist() == [seen(window, range(rows), range(keys))]


@settings(deadline=None)
@given(jobs(max_requests=8, max_runs=7), st.lists(windows, min_size=1, max_size=3))
def test_work_is_that_of_a_count_over_rows(job: Job, kinds: list[Window | None]) -> None:
    forest = build(job)
    tree = Tree.of_segments(job.table, forest, choose_segments(forest, Sharing.forest))
    requests, shared = request_work(tree, kinds), segment_work(tree, kinds)
    decoding = [
        range(len(prompt), len(prompt) + output - 1)
        for prompt, output in zip(job.prompts, job.expected, strict=True)
    ]
    for kind, window in enumerate(kinds):
        pairs, alone, reads = requests.counts[2 + 3 * kind : 5 + 3 * kind]
        for r, (rows, n) in enumerate(zip(decoding, job.choices, strict=True)):
            start, end = int(tree.shared[r]), rows.stop
            assert pairs[r] == n * seen(window, range(start, end), range(end))
            assert reads[r] == alone[r] == n * seen(window, rows, range(start, end))
            assert requests.reads[kind, r] == reads[r]
        pairs, alone, reads = shared.counts[2 + 3 * kind : 5 + 3 * kind]
        for s in range(len(tree.parent)):
            own = range(int(tree.start[s]), int(tree.end[s]))
            assert pairs[s] == seen(window, own, range(own.stop))
            assert alone[s] == 0
            users = [rows for r, rows in enumerate(decoding) if s in path(tree, r)]
            assert reads[s] == max(seen(window, rows, own) for rows in users)


def path(tree: Tree, request: int) -> list[int]:
    found, segment = [], int(tree.leaf[request])
    while segment >= 0:
        found.append(segment)
        segment = int(tree.parent[segment])
    return found


@settings(deadline=None)
@given(jobs(max_requests=8, max_runs=7), st.integers(1, 9), st.booleans())
def test_a_node_is_folded_by_what_windows_show_of_it(job: Job, tokens: int, chunked: bool) -> None:
    window, forest = Window(tokens, chunked), build(job)
    kind = AttentionCost(kv_bytes=3.0, pair_flops=20.0, window=window)
    costs = dataclasses.replace(COSTS, kinds=(kind,))
    cost = FoldCost.of(costs)
    token = costs.flops_per_token / costs.flops_per_second
    read, pair = 3.0 / costs.bytes_per_second / token, 20.0 / costs.flops_per_second / token
    outputs = np.array(job.expected, dtype=np.int32)
    weights = fold_weights(forest, cost, outputs)
    for node in range(len(forest)):
        own = range(int(forest.start[node]), int(forest.end[node]))
        below, direct = [], 0
        for r, prompt in enumerate(job.prompts):
            rows = range(len(prompt), len(prompt) + job.expected[r])
            leaf, at = int(forest.request_node[r]), int(forest.request_node[r])
            while at >= 0 and at != node:
                at = int(forest.parent[at])
            if at == node:
                pairs = seen(window, rows, own)
                below.append((pairs, job.choices[r]))
                direct += pairs * job.choices[r] if leaf == node else 0
        most, total = max(p for p, _ in below), sum(p * n for p, n in below)
        size = len(own)
        assert np.isclose(weights.kept[node], 1 + max(read * most, pair * total) / size)
        expected = forest.direct[node] + max(read, pair) * direct / size
        assert np.isclose(weights.direct[node], expected)


@settings(deadline=None)
@given(jobs(max_requests=8, max_runs=7), st.integers(1, 9), st.booleans())
def test_what_is_kept_never_weighs_more_than_copies(job: Job, tokens: int, chunked: bool) -> None:
    """What the choice of nodes rests on (`_best_nodes`)."""
    forest = build(job)
    kinds = (
        AttentionCost(kv_bytes=3.0, pair_flops=2.0),
        AttentionCost(kv_bytes=90.0, pair_flops=700.0, window=Window(tokens, chunked)),
    )
    outputs = np.array(job.expected, dtype=np.int32)
    cost = FoldCost.of(dataclasses.replace(COSTS, kinds=kinds))
    weights = fold_weights(forest, cost, outputs)
    copies = weights.direct.copy()
    inner = forest.parent >= 0
    np.add.at(copies, forest.parent[inner], weights.kept[inner])
    assert (weights.kept <= copies * (1 + 1e-9)).all()


def test_a_window_longer_than_everything_hides_nothing() -> None:
    job = Job([[1, 2, 3], [1, 2, 4, 5], [1, 7]], expected=[3, 5, 2], run=4)
    forest = build(job)
    tree = Tree.of_segments(job.table, forest, choose_segments(forest, Sharing.forest))
    for count in (request_work, segment_work):
        for window in (Window(1000), Window(1000, chunked=True)):
            assert np.array_equal(count(tree, [window]).counts, count(tree).counts)


def test_latents_are_expanded_where_that_is_less() -> None:
    """2 FLOP for a pair that reads latents; 1 where keys are made of them, at 10 a token."""
    kind = AttentionCost(kv_bytes=1.0, pair_flops=2.0, expanding=Expanding(1.0, 10.0))
    tokens = np.full(3, 100.0)
    found = kind.flops(tokens * np.array([1, 10, 30]), tokens)
    assert found.tolist() == [200.0, 2000.0, 4000.0]
    costs = dataclasses.replace(COSTS, kinds=(kind,))
    job = Job([[1, 2]], expected=[4])
    forest = build(job)
    tree = Tree.of_segments(job.table, forest, choose_segments(forest, Sharing.forest))
    work = request_work(tree, windows_of(costs))
    decodes = 3 + 4 + 5
    assert work.attention_flops(costs).tolist() == [[(1 + 2) * 1.0 + decodes * 2.0]]


def test_costs_without_kinds_are_one_that_sees_everything() -> None:
    whole = Costs.attention.fget(COSTS)  # type: ignore[attr-defined]
    assert [(k.kv_bytes, k.pair_flops, k.window) for k in whole] == [
        (COSTS.kv_bytes, COSTS.attention_flops, None)
    ]
