from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner.forest import Forest, build_forest
from tests.helpers.planner_jobs import Job, jobs

Path = tuple[int, ...]


def build(job: Job, exclusive: list[bool] | None = None) -> Forest:
    table = job.table
    mask = None if exclusive is None else np.array(exclusive)
    return build_forest(table.tokens, table.offsets, table.choices, mask)


def naive_nodes(job: Job) -> dict[Path, int]:
    """Path and users of every node: shared prefixes that no one token extends for all users."""
    users: Counter[Path] = Counter()
    for prompt, choices in zip(job.prompts, job.choices, strict=True):
        for length in range(1, len(prompt) + 1):
            users[tuple(prompt[:length])] += choices
    longest = Counter({path[:-1]: 0 for path in users})
    for path, count in users.items():
        longest[path[:-1]] = max(longest[path[:-1]], count)
    return {p: n for p, n in users.items() if n >= 2 and longest[p] < n}


def above(nodes: dict[Path, int], path: Path) -> list[Path]:
    """The nodes on a path, itself included, top first."""
    return [path[:n] for n in range(1, len(path) + 1) if path[:n] in nodes]


def path_of(job: Job, forest: Forest, node: int) -> Path:
    return tuple(job.prompts[forest.request[node]][: forest.end[node]])


@pytest.mark.long
@settings(deadline=None)
@given(jobs())
def test_forest_is_the_naive_trie(job: Job) -> None:
    forest, nodes = build(job), naive_nodes(job)
    paths = [path_of(job, forest, v) for v in range(len(forest))]
    assert paths == sorted(nodes), "preorder with children by token is lexicographic order"
    assert [nodes[p] for p in paths] == forest.users.tolist()
    for v, path in enumerate(paths):
        ancestors = above(nodes, path)[:-1]
        assert forest.level[v] == len(ancestors)
        assert forest.parent[v] == (paths.index(ancestors[-1]) if ancestors else -1)
        assert forest.start[v] == (len(ancestors[-1]) if ancestors else 0)
        below = [r for r, p in enumerate(job.prompts) if tuple(p[: len(path)]) == path]
        assert forest.first[v] == forest.rank[below].min()
        assert forest.request[v] in below


@pytest.mark.long
@settings(deadline=None)
@given(jobs())
def test_each_request_knows_its_deepest_node(job: Job) -> None:
    forest, nodes = build(job), naive_nodes(job)
    direct = np.zeros(len(forest), dtype=np.int64)
    for r, prompt in enumerate(job.prompts):
        path = above(nodes, tuple(prompt))
        v = forest.request_node[r]
        assert (path_of(job, forest, v) if v >= 0 else None) == (path[-1] if path else None)
        if v >= 0:
            direct[v] += job.choices[r]
    assert direct.tolist() == forest.direct.tolist()


@settings(deadline=None)
@given(jobs())
def test_rank_is_lexicographic_with_ties_by_index(job: Job) -> None:
    expected = sorted(range(len(job.prompts)), key=lambda r: (job.prompts[r], r))
    assert np.argsort(build(job).rank).tolist() == expected


@settings(deadline=None)
@given(jobs(), st.data())
def test_exclusive_requests_stay_out(job: Job, data: st.DataObject) -> None:
    size = len(job.prompts)
    exclusive = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    kept = [r for r in range(size) if not exclusive[r]]
    forest = build(job, exclusive)
    assert (forest.request_node[np.array(exclusive)] == -1).all()
    assert sorted(forest.rank) == list(range(size))
    others = build(job.permuted(kept))
    for column in ("parent", "level", "start", "end", "users", "direct", "first"):
        assert getattr(forest, column).tolist() == getattr(others, column).tolist()
    assert forest.request.tolist() == [kept[r] for r in others.request]


def test_large_token_ids_and_a_lone_request_with_choices() -> None:
    top = 2**31 - 1
    forest = build(Job([[top, 0, top]], choices=[3]))
    assert (forest.start.tolist(), forest.end.tolist()) == ([0], [3])
    assert (forest.users.tolist(), forest.direct.tolist()) == ([3], [3])
    assert build(Job([[top, 0], [top, top]])).end.tolist() == [1]


def test_nothing_to_share() -> None:
    assert len(build(Job([]))) == 0
    assert len(build(Job([[1, 2], [2, 1]]))) == 0
    assert len(build(Job([[1, 2]] * 2), exclusive=[True, False])) == 0


def test_a_deep_chain() -> None:
    size = 300
    forest = build(Job([[5] * n for n in range(1, size + 1)]))
    assert forest.end.tolist() == list(range(1, size))
    assert forest.level.tolist() == list(range(size - 1))
    assert forest.users.tolist() == list(range(size, 1, -1))


def test_twenty_thousand_prompts_take_moments() -> None:
    rng = np.random.default_rng(0)
    families = rng.integers(0, 50_000, (200, 100), dtype=np.int32)
    family = rng.integers(0, 200, 20_000)
    own = rng.integers(0, 50_000, (20_000, 28), dtype=np.int32)
    tokens = np.concatenate([families[family], own], axis=1)
    offsets = np.arange(20_001, dtype=np.int64) * 128
    began = time.perf_counter()
    forest = build_forest(tokens.ravel(), offsets, np.ones(20_000, dtype=np.int32))
    assert time.perf_counter() - began < 5
    saved = (forest.end - forest.start) * (forest.users - 1)
    assert saved.sum() >= (20_000 - 200) * 100
