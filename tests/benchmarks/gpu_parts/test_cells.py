from __future__ import annotations

import pytest

from benchmarks.gpu_parts.cells import (
    CELLS,
    MOST_TIMES,
    Cell,
    affordable,
    how_often,
    tight_blocks,
)
from benchmarks.gpu_parts.contenders import OURS, POLICIES
from benchmarks.gpu_parts.floors import FIRST_PACE, Paces
from benchmarks.workloads import SPECS, Workload, common_prefixes, make_workload
from shoal.scheduler import BLOCK_SIZE


def test_every_workload_is_run_and_ours_first() -> None:
    assert {cell.workload for cell in CELLS} == set(SPECS)
    assert len(set(CELLS)) == len(CELLS)
    for cell in CELLS:
        assert cell.policies[0] == OURS
        assert set(cell.policies) <= set(POLICIES)
        assert {"sorted-lru", "fcfs-lru", "paper"} <= set(cell.policies)
    assert CELLS[0].tight
    assert Cell("none", tight=True).name != Cell("none").name


@pytest.mark.parametrize(
    ("expected", "share", "left", "times"),
    [(10, 5, 100, 1), (10, 35, 100, 3), (10, 5000, 5000, MOST_TIMES), (10, 5, 9, 0), (0, 9, 9, 32)],
)
def test_as_many_times_as_the_share_allows(
    expected: float, share: float, left: float, times: int
) -> None:
    assert how_often(expected, share, left) == times


def test_the_first_policies_that_fit() -> None:
    seconds = {"a": 4.0, "b": 5.0, "c": 1.0}.__getitem__
    assert affordable("abc", seconds, 10.0) == ["a", "b", "c"]
    assert affordable("abc", seconds, 9.5) == ["a", "b"]
    assert affordable("abc", seconds, 3.0) == []


def test_tight_is_half_of_the_distinct_prompt_tokens() -> None:
    workload = make_workload("tight-2k", 32_000, 0.25)
    ordered = workload.sorted().prompts
    distinct = sum(map(len, ordered)) - sum(common_prefixes(ordered))
    assert abs(tight_blocks(workload) * BLOCK_SIZE - distinct / 2) <= BLOCK_SIZE


def test_tight_holds_the_longest_requests() -> None:
    workload = Workload("alone", [[1] * 100], [28])
    assert tight_blocks(workload) * BLOCK_SIZE >= 8 * 128


def test_paces_are_learnt() -> None:
    paces = Paces()
    assert paces.expect("shoal", 3.0) == 3.0 * FIRST_PACE
    paces.learn("shoal", 2.0, 10.0)
    assert paces.expect("shoal", 1.0) == 5.0
    assert paces.expect("unknown", 1.0) == 5.0
    paces.learn("quick", 2.0, 3.0)
    assert paces.expect("quick", 2.0) == 3.0


def test_more_groups_leave_what_they_share_as_it_is() -> None:
    once, thrice = (make_workload("shared-2k", 2**30, times=n) for n in (1, 3))
    assert len(thrice.prompts) == 3 * len(once.prompts)
    assert len({tuple(p[:2048]) for p in thrice.prompts}) == 3 * 8
    assert make_workload("shared-2k", 2**30) == once
