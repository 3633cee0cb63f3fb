"""Loads: every request once, families whole unless cut on purpose, near the best there is."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Sharing
from shoal.costs import Machine
from shoal.planner import Plan, make_plan
from shoal.planner.rearrange import restricted
from shoal.planning import make_shares
from shoal.planning.balance import WORTH, DeviceLoad, balance
from shoal.simulate import PartSeconds, part_seconds
from tests.helpers.planner_jobs import Job, jobs
from tests.simulate.test_seconds import seconds_of
from tests.simulate.test_simulated_run import COSTS

MACHINE = Machine(COSTS, 16, 400)


def planned(job: Job, sharing: Sharing = Sharing.forest) -> tuple[Plan, PartSeconds]:
    plan = make_plan(job.table, sharing=sharing)
    return plan, part_seconds(job.table, plan, MACHINE)


def family(requests: int, prefix: int = 40, first: int = 0) -> list[list[int]]:
    return [[first] * prefix + [1000 + first, i] for i in range(requests)]


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(jobs(max_requests=20, max_runs=7), st.sampled_from(Sharing), st.integers(1, 5))
def test_every_request_is_in_one_share(job: Job, sharing: Sharing, devices: int) -> None:
    plan, seconds = planned(job, sharing)
    loads = balance(plan, seconds, devices)
    assert [load.device for load in loads] == list(range(devices))
    runs = sorted((first, last) for load in loads for _, first, last in load.runs)
    assert [0, *(last for _, last in runs)] == [*(first for first, _ in runs), plan.num_sequences]
    requests = np.concatenate([load.requests(plan) for load in loads])
    assert sorted(requests.tolist()) == list(range(len(job.table)))
    for load in loads:
        expected = sum(seconds_of(plan, seconds, first, last) for _, first, last in load.runs)
        assert load.seconds == pytest.approx(expected, abs=1e-9)
    again = balance(plan, seconds, devices)
    assert [load.runs for load in again] == [load.runs for load in loads]


@settings(deadline=None, max_examples=100)
@given(jobs(max_requests=20, max_runs=7), st.sampled_from(Sharing), st.integers(1, 5))
def test_a_share_tells_what_its_plan_computes(job: Job, sharing: Sharing, devices: int) -> None:
    plan, _ = planned(job, sharing)
    for share in make_shares(job.table, plan, MACHINE, devices):
        theirs = restricted(plan, np.isin(plan.sequence_request, share.requests), job.table)
        assert share.figures.prompt_tokens == theirs.prompt_tokens
        assert share.figures.computed_prompt_tokens == theirs.computed_prompt_tokens
        assert share.figures.segments == theirs.num_segments


def makespan(loads: list[float], devices: int) -> float:
    """The best there is, by trying everything."""
    best = float("inf")
    for devices_of in product(range(devices), repeat=len(loads)):
        sums = [0.0] * devices
        for load, device in zip(loads, devices_of, strict=True):
            sums[device] += load
        best = min(best, max(sums))
    return best


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=7),
    st.integers(2, 3),
)
def test_whole_groups_are_dealt_within_the_bound_of_lpt(lengths: list[int], devices: int) -> None:
    """Single requests: there is nothing to cut."""
    job = Job([[i] * length for i, length in enumerate(lengths)], max_new=1)
    plan, seconds = planned(job)
    seconds_each = [load.seconds for load in balance(plan, seconds, devices)]
    best = makespan(seconds.sequence.tolist(), devices)
    assert best - 1e-9 <= max(seconds_each) <= (4 / 3 - 1 / (3 * devices)) * best + 1e-9


@pytest.mark.long
@settings(deadline=None, max_examples=100)
@given(jobs(max_requests=20, max_runs=7), st.integers(1, 5))
def test_the_longest_share_is_within_the_bound_of_list_scheduling(job: Job, devices: int) -> None:
    plan, seconds = planned(job)
    bounds = plan.groups.tolist()
    groups = [seconds_of(plan, seconds, a, b) for a, b in pairwise(bounds)]
    fair = sum(groups) / devices
    most = max(load.seconds for load in balance(plan, seconds, devices))
    bundle = fair / 256
    assert most <= fair + (1 - 1 / devices) * (max(groups) + bundle) + 1e-9


@pytest.mark.parametrize("devices", [2, 3, 4, 7, 8])
def test_one_family_is_cut_into_equal_parts(devices: int) -> None:
    plan, seconds = planned(Job(family(400)))
    loads = balance(plan, seconds, devices)
    seconds_each = [load.seconds for load in loads]
    assert max(seconds_each) <= 1.04 * sum(seconds_each) / devices
    assert sum(len(load.runs) for load in loads) == devices
    computed = sum(computed_tokens(plan, load, 400) for load in loads)
    assert computed == plan.computed_prompt_tokens + (devices - 1) * 41


def computed_tokens(plan: Plan, load: DeviceLoad, requests: int) -> int:
    kept = np.isin(plan.sequence_request, load.requests(plan))
    return restricted(plan, kept, Job(family(requests)).table).computed_prompt_tokens


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_families_of_like_size_stay_whole(devices: int) -> None:
    words = [word for first in range(4 * devices) for word in family(20, first=first)]
    plan, seconds = planned(Job(words))
    loads = balance(plan, seconds, devices)
    of_request = np.repeat(np.arange(4 * devices), 20)
    families = [set(of_request[load.requests(plan)].tolist()) for load in loads]
    assert sum(map(len, families)) == 4 * devices
    assert [len(found) for found in families] == [4] * devices


def test_a_large_family_is_cut_and_small_ones_fill_up() -> None:
    words = family(100, first=0) + [w for f in range(1, 5) for w in family(10, first=f)]
    plan, seconds = planned(Job(words))
    loads = balance(plan, seconds, 2)
    seconds_each = [load.seconds for load in loads]
    assert max(seconds_each) <= (1 + 2 * WORTH) * min(seconds_each)
    of_request = np.array([0] * 100 + [f for f in range(1, 5) for _ in range(10)])
    whole = [set(of_request[load.requests(plan)].tolist()) for load in loads]
    assert 0 in whole[0] & whole[1]
    assert not (whole[0] & whole[1] - {0})


def test_a_family_is_not_cut_where_its_prefix_costs_more_than_is_gained() -> None:
    plan, seconds = planned(Job(family(4, prefix=3000)))
    loads = balance(plan, seconds, 2)
    assert sorted(len(load.requests(plan)) for load in loads) == [0, 4]


def test_many_small_groups_are_bundled() -> None:
    job = Job([[i] for i in range(20_000)])
    plan, seconds = planned(job)
    loads = balance(plan, seconds, 4)
    assert sum(len(load.runs) for load in loads) <= 2 * 4 * 256
    seconds_each = [load.seconds for load in loads]
    assert max(seconds_each) <= (1 + WORTH) * min(seconds_each)
