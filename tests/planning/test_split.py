"""Shares: every request once, families whole unless cut on purpose, near the best there is."""

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
from shoal.planning.split import WORTH, Share, divide
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


@settings(deadline=None, max_examples=150)
@given(jobs(max_requests=20, max_runs=7), st.sampled_from(Sharing), st.integers(1, 5))
def test_every_request_is_in_one_share(job: Job, sharing: Sharing, devices: int) -> None:
    plan, seconds = planned(job, sharing)
    shares = divide(plan, seconds, devices)
    assert [share.device for share in shares] == list(range(devices))
    runs = sorted((first, last) for share in shares for _, first, last in share.runs)
    assert [0, *(last for _, last in runs)] == [*(first for first, _ in runs), plan.num_sequences]
    requests = np.concatenate([share.requests(plan) for share in shares])
    assert sorted(requests.tolist()) == list(range(len(job.table)))
    for share in shares:
        expected = sum(seconds_of(plan, seconds, first, last) for _, first, last in share.runs)
        assert share.seconds == pytest.approx(expected, abs=1e-9)
    again = divide(plan, seconds, devices)
    assert [share.runs for share in again] == [share.runs for share in shares]


def makespan(loads: list[float], devices: int) -> float:
    """The best there is, by trying everything."""
    best = float("inf")
    for places in product(range(devices), repeat=len(loads)):
        sums = [0.0] * devices
        for load, place in zip(loads, places, strict=True):
            sums[place] += load
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
    loads = [share.seconds for share in divide(plan, seconds, devices)]
    best = makespan(seconds.sequence.tolist(), devices)
    assert best - 1e-9 <= max(loads) <= (4 / 3 - 1 / (3 * devices)) * best + 1e-9


@settings(deadline=None, max_examples=100)
@given(jobs(max_requests=20, max_runs=7), st.integers(1, 5))
def test_the_longest_share_is_within_the_bound_of_list_scheduling(job: Job, devices: int) -> None:
    plan, seconds = planned(job)
    bounds = plan.groups.tolist()
    groups = [seconds_of(plan, seconds, a, b) for a, b in pairwise(bounds)]
    fair = sum(groups) / devices
    most = max(share.seconds for share in divide(plan, seconds, devices))
    bundle = fair / 256
    assert most <= fair + (1 - 1 / devices) * (max(groups) + bundle) + 1e-9


@pytest.mark.parametrize("devices", [2, 3, 4, 7, 8])
def test_one_family_is_cut_into_equal_parts(devices: int) -> None:
    plan, seconds = planned(Job(family(400)))
    shares = divide(plan, seconds, devices)
    loads = [share.seconds for share in shares]
    assert max(loads) <= 1.04 * sum(loads) / devices
    assert sum(len(share.runs) for share in shares) == devices
    computed = sum(computed_tokens(plan, share, 400) for share in shares)
    assert computed == plan.computed_prompt_tokens + (devices - 1) * 41


def computed_tokens(plan: Plan, share: Share, requests: int) -> int:
    kept = np.isin(plan.sequence_request, share.requests(plan))
    return restricted(plan, kept, np.full(requests, 42)).computed_prompt_tokens


@pytest.mark.parametrize("devices", [2, 3, 4])
def test_families_of_like_size_stay_whole(devices: int) -> None:
    words = [word for first in range(4 * devices) for word in family(20, first=first)]
    plan, seconds = planned(Job(words))
    shares = divide(plan, seconds, devices)
    of_request = np.repeat(np.arange(4 * devices), 20)
    families = [set(of_request[share.requests(plan)].tolist()) for share in shares]
    assert sum(map(len, families)) == 4 * devices
    assert [len(found) for found in families] == [4] * devices


def test_a_large_family_is_cut_and_small_ones_fill_up() -> None:
    words = family(100, first=0) + [w for f in range(1, 5) for w in family(10, first=f)]
    plan, seconds = planned(Job(words))
    shares = divide(plan, seconds, 2)
    loads = [share.seconds for share in shares]
    assert max(loads) <= (1 + 2 * WORTH) * min(loads)
    of_request = np.array([0] * 100 + [f for f in range(1, 5) for _ in range(10)])
    whole = [set(of_request[share.requests(plan)].tolist()) for share in shares]
    assert 0 in whole[0] & whole[1]
    assert not (whole[0] & whole[1] - {0})


def test_a_family_is_not_cut_where_its_prefix_costs_more_than_is_gained() -> None:
    plan, seconds = planned(Job(family(4, prefix=3000)))
    shares = divide(plan, seconds, 2)
    assert sorted(len(share.requests(plan)) for share in shares) == [0, 4]


def test_many_small_groups_are_bundled() -> None:
    job = Job([[i] for i in range(20_000)])
    plan, seconds = planned(job)
    shares = divide(plan, seconds, 4)
    assert sum(len(share.runs) for share in shares) <= 2 * 4 * 256
    loads = [share.seconds for share in shares]
    assert max(loads) <= (1 + WORTH) * min(loads)
