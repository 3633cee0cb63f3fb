from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.costs import Machine
from shoal.planner import Plan, make_plan
from shoal.planner.rearrange import restricted
from shoal.simulate import PartSeconds, Stretches, lower_bound, part_seconds
from tests.helpers.planner_jobs import Job, jobs
from tests.simulate.test_simulated_run import COSTS

MACHINE = Machine(COSTS, 16, 400)


def planned(job: Job, sharing: Sharing = Sharing.forest) -> tuple[Plan, PartSeconds]:
    plan = make_plan(job.table, sharing=sharing, order=Order.input)
    return plan, part_seconds(job.table, plan, MACHINE)


def seconds_of(plan: Plan, seconds: PartSeconds, first: int, last: int) -> float:
    """A run of sequences by itself, summed one by one."""
    total = sum(seconds.sequence[first:last].tolist())
    for segment in range(plan.num_segments):
        if plan.segment_first[segment] < last and plan.segment_last[segment] > first:
            total += float(seconds.segment[segment])
    return total


@settings(deadline=None, max_examples=60)
@given(jobs(max_runs=7), st.sampled_from(Sharing), st.data())
def test_cuts_count_what_both_parts_need(job: Job, sharing: Sharing, data: st.DataObject) -> None:
    plan, seconds = planned(job, sharing)
    first = data.draw(st.integers(0, plan.num_sequences - 1))
    last = data.draw(st.integers(first + 1, plan.num_sequences))
    found = Stretches(plan, seconds).cuts(first, last)
    heads = [p for p in range(first + 1, last) if plan.sequence_choice[p] == 0]
    assert found.sequence.tolist() == heads
    whole = seconds_of(plan, seconds, first, last)
    for sequence, before, after, again in zip(
        found.sequence.tolist(), found.before, found.after, found.again, strict=True
    ):
        assert before == pytest.approx(seconds_of(plan, seconds, first, sequence))
        assert after == pytest.approx(seconds_of(plan, seconds, sequence, last))
        assert before + after == pytest.approx(whole + again)


@settings(deadline=None, max_examples=100)
@given(jobs(max_runs=7), st.sampled_from(Sharing), st.data())
def test_cuts_near_are_those_of_all_within(job: Job, sharing: Sharing, data: st.DataObject) -> None:
    plan, seconds = planned(job, sharing)
    first = data.draw(st.integers(0, plan.num_sequences - 1))
    last = data.draw(st.integers(first + 1, plan.num_sequences))
    stretches = Stretches(plan, seconds)
    every = stretches.cuts(first, last)
    after = data.draw(st.floats(0, float(seconds.sequence.sum())))
    within = data.draw(st.floats(0, after))
    near = stretches.cuts_near(first, last, after, within)
    wanted = set(every.sequence[np.abs(every.after - after) < within - 1e-12].tolist())
    assert wanted <= set(near.sequence.tolist()) <= set(every.sequence.tolist())
    assert len(near.sequence) or not len(every.sequence)
    at = np.searchsorted(every.sequence, near.sequence)
    for name in ("before", "after", "again"):
        assert getattr(near, name) == pytest.approx(getattr(every, name)[at])


@settings(deadline=None, max_examples=60)
@given(jobs(max_runs=7), st.data())
def test_a_run_under_way_has_its_segments_already(job: Job, data: st.DataObject) -> None:
    plan, seconds = planned(job)
    begun = data.draw(st.integers(0, plan.num_sequences - 1))
    found = Stretches(plan, seconds).cuts(begun, plan.num_sequences, under_way=True)
    assert (0 in found.sequence - begun) == (plan.sequence_choice[begun] == 0)
    known = [s for s in range(plan.num_segments) if plan.segment_first[s] < begun]
    for sequence, before, after in zip(
        found.sequence.tolist(), found.before, found.after, strict=True
    ):
        sunk = sum(float(seconds.segment[s]) for s in known if plan.segment_last[s] > begun)
        expected = seconds_of(plan, seconds, begun, sequence) - sunk if sequence > begun else 0.0
        assert before == pytest.approx(expected)
        assert after == pytest.approx(seconds_of(plan, seconds, sequence, plan.num_sequences))


@settings(deadline=None, max_examples=60)
@given(jobs(max_runs=7), st.sampled_from(Sharing))
def test_seconds_of_requests_add_up(job: Job, sharing: Sharing) -> None:
    plan, seconds = planned(job, sharing)
    requests = seconds.of_requests(plan, len(job.table))
    assert requests.sum() == pytest.approx(seconds.sequence.sum() + seconds.segment.sum())
    assert (requests > 0).all()


@pytest.mark.parametrize("weight_bytes", [0.0, 1e6])
@pytest.mark.parametrize("capacity", [20, 100_000])
def test_the_parts_are_near_the_bound(weight_bytes: float, capacity: int) -> None:
    """What is not bound by the longest answer takes at least what the bound says, and not much
    more: both sum the same work, but a bound takes compute and memory at the same time."""
    costs = dataclasses.replace(COSTS, weight_bytes=weight_bytes)
    job = Job([[i % 7, i] for i in range(2, 60)], expected=[4] * 58, run=5)
    plan = make_plan(job.table)
    on = Machine(costs, 8, capacity)
    seconds = part_seconds(job.table, plan, on)
    total = seconds.sequence.sum() + seconds.segment.sum()
    bound = lower_bound(job.table, plan, on).seconds
    assert 0.9 * bound <= total <= 1.8 * bound


def test_half_of_a_job_takes_half_its_seconds() -> None:
    job = Job([[i % 7, i] for i in range(2, 60)], expected=[4] * 58, run=5)
    plan, seconds = planned(job, Sharing.none)
    half = np.zeros(plan.num_sequences, dtype=np.bool_)
    half[: plan.num_sequences // 2] = True
    part = restricted(plan, half, job.table)
    alone = part_seconds(job.table, part, MACHINE)
    assert alone.sequence.sum() == pytest.approx(seconds.sequence[half].sum())
