"""What planning costs on shapes that invite trouble: bounds on work and memory, not on seconds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import pytest

from benchmarks.planner.workload import Shape, write_prompts
from shoal.planner import Plan, build_forest, make_plan, match
from shoal.planner import forest as forest_module
from shoal.planner.forest import Forest
from shoal.prompts.length_rules import LengthRules
from shoal.prompts.token_columns import TokenColumns
from shoal.prompts.token_files import open_tokens
from shoal.types import RequestParams

BYTES_PER_REQUEST = 250
"""Measured: about 190 at a million requests."""


@dataclass
class Work:
    """Tokens read for comparing, and how often they were asked for."""

    tokens: int = 0
    rounds: int = 0


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    windows, common_length = match._windows, match.common_length

    def count_tokens(tokens: np.ndarray, start: np.ndarray, width: int) -> np.ndarray:
        work.tokens += len(start) * width
        return windows(tokens, start, width)

    def count_rounds(*arguments: np.ndarray) -> np.ndarray:
        work.rounds += 1
        return common_length(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(match, "_windows", count_tokens)
        patch.setattr("shoal.planner.forest.common_length", count_rounds)
        yield work


def forest_of(columns: TokenColumns) -> Forest:
    return build_forest(columns.tokens, columns.offsets, np.ones(len(columns), dtype=np.int32))


def planned(columns: TokenColumns) -> Plan:
    rules = LengthRules(max_model_len=1 << 30, capacity_tokens=1 << 40)
    return make_plan(columns.table([RequestParams(max_tokens=4)], rules, job_seed=0))


def saved(forest: Forest) -> int:
    return int(((forest.end - forest.start) * (forest.users - 1)).sum())


def rows(prompts: np.ndarray) -> TokenColumns:
    count, length = prompts.shape
    tokens = np.ascontiguousarray(prompts, dtype=np.int32).reshape(-1)
    return TokenColumns(tokens, np.arange(count + 1) * length)


def random_tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 50_000, shape, dtype=np.int32)


def test_a_chain_of_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every prompt is a prefix of the next: a level per prompt."""
    size = 1000
    lengths = np.random.default_rng(1).permutation(np.arange(1, size + 1))
    longest = random_tokens(size)
    tokens = np.concatenate([longest[:n] for n in lengths])
    columns = TokenColumns(tokens, np.concatenate([[0], np.cumsum(lengths)]))
    with counted(monkeypatch) as work:
        forest = forest_of(columns)
    assert len(forest) == forest.level.max() + 1 == size - 1
    assert work.tokens <= len(tokens)
    assert planned(columns).saved_prompt_tokens > 0.9 * len(tokens)


def test_a_comb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt leaves the common path at its own depth."""
    size = 400
    path = random_tokens(size)
    own = 50_000 + np.arange(size * size).reshape(size, size)
    columns = rows(np.where(np.arange(size) < np.arange(size)[:, None], path, own))
    with counted(monkeypatch) as work:
        forest = forest_of(columns)
    assert len(forest) == size - 2
    # Half the tokens are shared, and each is read with the 15 after it.
    assert work.tokens <= 17 * len(columns.tokens) / 2


@pytest.mark.parametrize("length", [200, 2000])
def test_identical_prompts(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    columns = rows(np.tile(random_tokens(length), (300, 1)))
    with counted(monkeypatch) as work:
        forest = forest_of(columns)
    assert saved(forest) == 299 * length
    assert work.tokens <= 2 * len(columns.tokens)
    assert work.rounds <= 8


@pytest.mark.parametrize("length", [20, 2000])
def test_prompts_without_anything_in_common(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """What is read does not depend on how long they are."""
    columns = rows(random_tokens(2000, length))
    with counted(monkeypatch) as work:
        forest = forest_of(columns)
    assert saved(forest) < 2000 * 2
    assert work.tokens <= 2000 * 20
    assert work.rounds <= 4


def test_two_long_prompts_that_differ_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = np.tile(random_tokens(1_000_000), (2, 1))
    prompts[1, -1] += 1
    with counted(monkeypatch) as work:
        forest = forest_of(rows(prompts))
    assert saved(forest) == 999_999
    assert work.tokens <= 1.1 * prompts.size
    assert work.rounds <= 30


def test_few_distinct_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node at every place where prompts can part."""
    columns = rows(np.random.default_rng(2).integers(0, 2, (5000, 64)))
    with counted(monkeypatch) as work:
        forest = forest_of(columns)
    shared_per_prompt = np.append(forest.end, 0)[forest.request_node].mean()
    assert shared_per_prompt > 10
    assert work.tokens <= 17 * (shared_per_prompt + 1) * 5000


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], TokenColumns]:
    """The scale benchmark's prompts."""
    folder = tmp_path_factory.mktemp("families")

    def make(requests: int) -> TokenColumns:
        path = folder / f"{requests}.npy"
        write_prompts(Shape(requests, family=60, branch=20, own=20), path)
        return open_tokens(path)

    return make


def test_work_grows_with_the_requests(
    monkeypatch: pytest.MonkeyPatch, families: Callable[[int], TokenColumns]
) -> None:
    work = []
    for requests in (3000, 30_000):
        columns = families(requests)
        with counted(monkeypatch) as counts:
            forest_of(columns)
        assert counts.tokens <= 3 * len(columns.tokens)
        work.append(counts)
    assert work[1].tokens <= 11 * work[0].tokens
    assert work[1].rounds <= work[0].rounds + 2


def test_batches_change_nothing(
    monkeypatch: pytest.MonkeyPatch, families: Callable[[int], TokenColumns]
) -> None:
    columns = families(3000)
    whole = forest_of(columns)
    monkeypatch.setattr(forest_module, "_BATCH_MEMBERS", 37)
    with counted(monkeypatch) as work:
        batched = forest_of(columns)
    assert work.rounds > 100
    for field in fields(Forest):
        assert np.array_equal(getattr(whole, field.name), getattr(batched, field.name)), field.name


def test_memory_grows_with_the_requests_not_their_tokens(
    families: Callable[[int], TokenColumns],
) -> None:
    columns = families(30_000)
    tracemalloc.start()
    try:
        plan = planned(columns)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert plan.num_sequences == 30_000
    fixed = 24 << 20  # the chunks of tokens that are compared at a time
    assert peak <= fixed + BYTES_PER_REQUEST * 30_000
