from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shoal.sampling.random import stream_key
from shoal.types import RequestParams, RequestTable
from tests.helpers.planner_jobs import Job, jobs


def with_lines(job: Job, per_line: int) -> RequestTable:
    """The job's table with so many prompts in each line, every third request seeded."""
    table = job.table
    number = np.arange(len(table))
    return replace(
        table, line=5 + number // per_line, seeds=number, has_seed=number % 3 == 0, job_seed=77
    )


@given(jobs(max_runs=7), st.integers(1, 3), st.data())
def test_a_part_has_the_requests_and_their_random_numbers(
    job: Job, per_line: int, data: st.DataObject
) -> None:
    whole = with_lines(job, per_line)
    some = data.draw(st.sets(st.integers(0, len(whole) - 1), min_size=1))
    requests = np.array(sorted(some))
    part = whole.select(requests)
    assert len(part) == len(requests)
    for mine, theirs in enumerate(requests.tolist()):
        assert part.prompt(mine).tolist() == whole.prompt(theirs).tolist()
        assert part.sampling(mine) == whole.sampling(theirs)
        for name in ("max_new_tokens", "expected_new_tokens", "seeds", "has_seed", "line"):
            assert getattr(part, name)[mine] == getattr(whole, name)[theirs]
        for choice in range(2):
            assert stream_key(part, mine, choice) == stream_key(whole, theirs, choice)
    twice = data.draw(st.sets(st.integers(0, len(part) - 1), min_size=1))
    inner = np.array(sorted(twice))
    for mine, theirs in enumerate(inner.tolist()):
        assert stream_key(part.select(inner), mine, 0) == stream_key(part, theirs, 0)


def test_only_the_parameters_in_use_travel() -> None:
    table = replace(
        Job([[1], [2], [3]]).table,
        params=[RequestParams(max_tokens=n) for n in range(1, 4)],
        params_index=np.array([2, 0, 2], dtype=np.int32),
    )
    part = table.select(np.array([0, 2]))
    assert part.params == [RequestParams(max_tokens=3)]
    assert part.params_index.tolist() == [0, 0]
