from __future__ import annotations

import pytest

from benchmarks.agreement import Agreement, UnequalWorkError, by_prompt, check_work, compare
from benchmarks.peers.client import RunResult
from benchmarks.workloads import Workload

WORKLOAD = Workload("w", [[5, 6], [3]], [2, 4])


def result(*token_ids: list[list[int]]) -> RunResult:
    return RunResult(1.0, list(token_ids), 0)


def test_requests_are_matched_by_prompt_in_any_order() -> None:
    ours = by_prompt(WORKLOAD, result([[1, 2]], [[1, 2, 3, 4]]))
    theirs = by_prompt(WORKLOAD.sorted(), result([[1, 2, 9, 4]], [[1, 2]]))
    assert compare(ours, theirs) == Agreement(equal=0.5, common_prefix=0.75)
    assert compare(ours, ours) == Agreement(equal=1, common_prefix=1)


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([[[1, 2]]], "1 answers to 2"),
        ([[[1, 2]], [[1, 2, 3]]], "request 1: \\[3\\] tokens"),
        ([[[1, 2]], [[1, 2, 3, 4], [1, 2, 3, 4]]], "request 1"),
    ],
)
def test_unequal_work_is_an_error(token_ids: list[list[list[int]]], message: str) -> None:
    with pytest.raises(UnequalWorkError, match=message):
        check_work("peer", WORKLOAD, result(*token_ids))


def test_equal_work_passes() -> None:
    check_work("peer", WORKLOAD, result([[1, 2]], [[1, 2, 3, 4]]))
