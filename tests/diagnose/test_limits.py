"""Limits on output that memory cannot hold, or that are far above what is generated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shoal.diagnose import Diagnoses, diagnose
from shoal.planner import build_forest, make_plan
from shoal.types import RequestParams, RequestTable
from tests.helpers.planner_jobs import Job


def with_limits(limit: int | None, length: int, requests: int = 100) -> RequestTable:
    table = Job([[i] * 50 for i in range(requests)], max_new=length).table
    params = [RequestParams(max_tokens=limit)]
    return replace(table, params=params)


def limits_of(table: RequestTable, capacity: int, generated: list[int] | None = None) -> Diagnoses:
    forest = build_forest(table.tokens, table.offsets, table.choices)
    lengths = None if generated is None else np.array(generated)
    return diagnose(
        table,
        make_plan(table, forest=forest),
        forest,
        lambda t: b"x",
        capacity_tokens=capacity,
        generated=lengths,
    )


def test_a_limit_that_memory_cannot_hold_is_told() -> None:
    (finding,) = limits_of(with_limits(4000, 4000), 10_000).limits
    assert (finding.stated, finding.limit, finding.needed) == (True, 4000, None)
    assert finding.fitting == 10_000 // 4050
    assert finding.fitting_if_needed == 10_000 // 306
    assert limits_of(with_limits(4000, 4000), 1_000_000).limits == []
    assert limits_of(with_limits(300, 300), 10_000).limits == []
    assert limits_of(with_limits(4000, 4000, requests=2), 10_000).limits == []


def test_a_limit_that_nobody_stated_is_told_as_such() -> None:
    (finding,) = limits_of(with_limits(None, 8000), 10_000).limits
    assert not finding.stated


def test_a_limit_is_compared_with_what_was_generated() -> None:
    table = with_limits(2000, 2000)
    (finding,) = limits_of(table, 1_000_000, [80] * 98 + [90, -1]).limits
    assert finding.needed == 90
    assert limits_of(table, 1_000_000, [80] * 90 + [1900] * 10).limits == []
    assert limits_of(table, 1_000_000, [-1] * 100).limits == []
