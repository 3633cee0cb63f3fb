from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Sharing
from shoal.planner import Plan, expected_peak_kv, make_plan
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job, jobs


def walk(job: Job, plan: Plan, token_budget: int) -> int:
    """The same model, an iteration at a time."""
    request, segment = plan.sequence_request.tolist(), plan.sequence_segment.tolist()
    own = [len(job.prompts[r]) - int(n) for r, n in zip(request, plan.shared_length, strict=True)]
    todo = list(own)
    for s in range(plan.num_segments):
        todo[plan.segment_first[s]] += int(plan.segment_length[s])
    begin: dict[int, int] = {}
    finish: dict[int, int] = {}
    peak, time, done, progress = 0, 0, 0, 0

    def held(live: set[int], now: int) -> int:
        tokens = sum(own[q] + now - begin[q] for q in live)
        resident = {s for q in live for s in plan.path(segment[q])}
        return tokens + sum(int(plan.segment_length[s]) for s in resident)

    while done < len(request) or any(end >= time for end in finish.values()):
        before = {q for q in begin if begin[q] < time <= finish[q]}
        peak = max(peak, held(before, time))
        running = sum(finish[q] > time for q in begin)
        progress += max(token_budget - running, 0)
        while done < len(request) and sum(todo[: done + 1]) <= progress:
            begin[done], finish[done] = time, time + job.expected[request[done]]
            done += 1
        after = {q for q in begin if begin[q] <= time < finish[q]}
        peak = max(peak, held(after, time))
        time += 1
    return peak


@pytest.mark.long
@settings(deadline=None)
@given(jobs(), st.integers(1, 200))
def test_peak_is_that_of_the_run_walked_through(job: Job, token_budget: int) -> None:
    plan = make_plan(job.table)
    table = job.table
    peak = walk(job, plan, token_budget)
    # A segment may wait for its next user; the walk above drops it in between.
    assert expected_peak_kv(plan, table, machine(budget=token_budget)) >= peak
    plan = make_plan(table, sharing=Sharing.none)
    peak = walk(job, plan, token_budget)
    assert expected_peak_kv(plan, table, machine(budget=token_budget)) == peak


def test_a_shared_segment_is_held_once_until_its_last_user_is_done() -> None:
    job = Job([[1] * 100 + [2], [1] * 100 + [3]], expected=[5, 9])
    plan = make_plan(job.table)
    together = expected_peak_kv(plan, job.table, machine(budget=1000))
    assert together == 100 + 2 * (1 + 5)
    # A budget of 1 starts the second when the first is done.
    assert expected_peak_kv(plan, job.table, machine(budget=1)) == 100 + 1 + 9


def test_the_pool_bounds_the_peak() -> None:
    job = Job([[i] * 100 for i in range(10)])
    plan = make_plan(job.table)
    assert expected_peak_kv(plan, job.table, machine()) == 10 * (100 + 4)
    assert expected_peak_kv(plan, job.table, machine(blocks=20)) == 20 * 32


def test_coarse_steps_stay_close() -> None:
    """A long job in steady state: each iteration starts 8 sequences that run 20 iterations."""
    job = Job([[i, *[0] * 11] for i in range(60_000)], expected=[20] * 60_000)
    plan = make_plan(job.table)
    peak = expected_peak_kv(plan, job.table, machine(budget=8 * (12 + 20)))
    steady = 8 * 20 * (12 + 20 / 2)
    assert steady * 0.9 < peak < steady * 1.6


def test_no_requests_hold_nothing() -> None:
    table = Job([]).table
    assert expected_peak_kv(make_plan(table), table, machine()) == 0
