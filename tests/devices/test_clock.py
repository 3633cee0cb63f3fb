"""Whole runs on several devices against the clock: who gets what, how evenly, and deaths."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.costs import Costs
from shoal.devices.assignments import Assignments
from shoal.devices.device_run import DeviceRun
from shoal.devices.suspects import Suspects
from shoal.errors import DeviceLostError, InternalError
from shoal.planning import divide_job
from shoal.types import Int64Array, PlanFigures, RequestTable
from tests.helpers.device_clock import ClockGroup, PoisonedGroup, run
from tests.helpers.planner_jobs import Job, jobs

COSTS = Costs(
    flops_per_token=2e8,
    head_flops=5e7,
    attention_flops=4e4,
    weight_bytes=2e8,
    kv_bytes=1e4,
    flops_per_second=1e12,
    bytes_per_second=2e10,
    iteration_seconds=1e-3,
)


def families(count: int, requests: int, prefix: int = 200, own: int = 20) -> RequestTable:
    """So many prefix families of so many requests each, all expected to be answered alike."""
    words = [[f] * prefix + [1000 + f] + [i] * own for f in range(count) for i in range(requests)]
    return Job(words, expected=[30] * len(words), max_new=400).table


def skewed(table: RequestTable) -> Int64Array:
    """Answers of the first half of the requests are ten times as long as those of the others."""
    short = np.random.default_rng(3).integers(10, 30, len(table))
    long = np.arange(len(table)) < len(table) // 2
    return np.where(long, 10 * short, short)


def timed(devices: int, table: RequestTable, lengths: Int64Array, blocks: int) -> float:
    group = ClockGroup(devices, lengths, COSTS, num_blocks=blocks)
    done = run(group, table)[1]
    assert sorted(done) == list(range(len(table)))
    return group.seconds


def test_one_family_is_cut_into_samples_of_itself() -> None:
    """No device gets all the long answers, although they are neighbours and nobody knew."""
    table = families(1, 320)
    lengths = skewed(table)
    alone, together = timed(1, table, lengths, 400), timed(2, table, lengths, 400)
    assert together <= 1.1 * alone / 2


def test_idle_devices_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two families, one of which turns out to be ten times the work: the worst there is."""
    table = families(2, 110)
    lengths = skewed(table)
    alone, together = timed(1, table, lengths, 60), timed(2, table, lengths, 60)
    monkeypatch.setattr(Assignments, "ask", lambda self, busy, idle: {})
    static = timed(2, table, lengths, 60)
    assert static > 1.7 * alone / 2
    assert together < 1.25 * alone / 2


@settings(deadline=None, max_examples=80)
@given(
    jobs(max_requests=20, max_runs=7),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.2)), max_size=3),
    st.data(),
)
def test_each_request_is_completed_once(
    job: Job, devices: int, deaths: list[tuple[int, float]], data: st.DataObject
) -> None:
    table = job.table
    size = len(table)
    lengths = np.array(data.draw(st.lists(st.integers(1, 8), min_size=size, max_size=size)))
    blocks = -(-int(table.lengths.max() + job.max_new) // 32) + data.draw(st.integers(0, 4))
    group = ClockGroup(devices, lengths, COSTS, token_budget=16, num_blocks=blocks)
    for device, seconds in deaths[: 2 if devices > 1 else 1]:
        group.devices[device % devices].dies_at = seconds
    dying = any(worker.dies_at < 1 for worker in group.devices)
    divided = divide_job(table, group.options, group.machine, devices)
    result, done = run(group, table)
    assert sorted(done) == list(range(size))
    stats, planned = result.stats, result.planned
    again = stats.prompt_tokens_computed - planned.computed_prompt_tokens
    # What an idle device takes over it plans anew, and may share more of it. That hides what those
    # that were preempted compute again.
    recomputed = stats.prompt_tokens_recomputed
    assert recomputed >= max(again, 0) or dying
    assert recomputed == max(again, 0) or stats.preemptions or dying
    plans = divided.run_plans(table, group.options, group.machine)
    assert planned == PlanFigures.together([plan.figures for plan in plans])
    assert planned.prompt_tokens == int((table.lengths * table.choices).sum())
    assert len(stats.device_seconds) == devices
    if not dying:
        assert stats.generated_tokens == int((lengths * table.choices).sum())
        trace = result.trace
        assert len(trace) == stats.iterations


@settings(deadline=None, max_examples=40)
@given(jobs(max_requests=20, max_runs=7), st.integers(2, 4))
def test_the_plan_says_what_is_computed(job: Job, devices: int) -> None:
    """With room for all there are no preemptions: shared tokens are computed once per device."""
    table = job.table
    group = ClockGroup(devices, np.full(len(table), 3), COSTS, token_budget=16, num_blocks=900)
    result, _ = run(group, table)
    stats = result.stats
    once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
    assert once == result.planned.computed_prompt_tokens


def test_a_death_costs_what_was_under_way(caplog: pytest.LogCaptureFixture) -> None:
    table = families(4, 40)
    lengths = np.full(len(table), 30)
    group = ClockGroup(2, lengths, COSTS)
    calm = timed(2, table, lengths, 400)
    group.devices[1].dies_at = calm / 2
    with caplog.at_level(logging.WARNING):
        result, done = run(group, table)
    assert sorted(done) == list(range(len(table)))
    assert "the process of clock:1 was killed by the test" in caplog.text
    assert calm < group.seconds < 2 * calm
    planned, stats = result.planned.computed_prompt_tokens, result.stats
    assert planned <= 4 * 201 * 2 + len(table) * 20
    assert 0 < stats.prompt_tokens_recomputed == stats.prompt_tokens_computed - planned


class Dying(ClockGroup):
    """Devices that die again as soon as they are given requests."""

    dying: tuple[int, ...] = ()

    def start(self, worker: int) -> None:
        super().start(worker)
        self.devices[worker].dies_at = 0.0


def test_a_device_that_keeps_dying_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    table = families(4, 40)
    group = Dying(2, np.full(len(table), 30), COSTS)
    group.devices[0].dies_at = 0.0
    with caplog.at_level(logging.WARNING):
        _, done = run(group, table)
    assert sorted(done) == list(range(len(table)))
    assert "clock:0 is given up: its process died again and again" in caplog.text


def test_a_device_that_dies_now_and_then_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    class Frail(ClockGroup):
        def start(self, worker: int) -> None:
            super().start(worker)
            self.devices[worker].dies_at = self.now + 0.7

    table = families(2, 150)
    group = Frail(2, np.full(len(table), 30), COSTS, num_blocks=40)
    group.devices[0].dies_at = 0.7
    with caplog.at_level(logging.WARNING):
        _, done = run(group, table)
    assert sorted(done) == list(range(len(table)))
    assert caplog.text.count("the process of clock:0") > 3
    assert "given up" not in caplog.text


def test_a_run_whose_devices_all_keep_dying_ends() -> None:
    table = families(4, 40)
    group = Dying(2, np.full(len(table), 30), COSTS)
    for worker in group.devices:
        worker.dies_at = 0.0
    with pytest.raises(
        DeviceLostError, match=r"died again and again; .* run the same command again|died \d times"
    ):
        run(group, table)
    assert group.closed


def test_the_only_device_is_not_given_up_silently() -> None:
    group = Dying(1, np.full(3, 2), COSTS)
    group.devices[0].dies_at = 0.0
    with pytest.raises(DeviceLostError):
        run(group, Job([[1], [2], [3]]).table)


@pytest.mark.parametrize(("devices", "poisoned"), [(1, [0]), (2, [7, 150]), (3, [0, 1, 2])])
def test_requests_that_kill_their_engine_fail_alone(devices: int, poisoned: list[int]) -> None:
    """Wherever they stand; the others are answered."""
    table = families(4, 40)
    group = PoisonedGroup(devices, np.full(len(table), 30), COSTS, num_blocks=60)
    group.poison = np.array(poisoned)
    done = [c for completions in DeviceRun(group, table) for c in completions]
    assert sorted(c.request_index for c in done) == list(range(len(table)))
    errors = {c.request_index: c.error for c in done if c.error is not None}
    assert sorted(errors) == poisoned
    assert {(e.code, e.status_code) for e in errors.values()} == {("engine_died", 500)}
    assert group.deaths <= 14 * len(poisoned)


def test_a_broken_device_condemns_nobody() -> None:
    table = families(4, 40)
    group = Dying(3, np.full(len(table), 30), COSTS, num_blocks=60)
    group.devices[0].dies_at = 0.0
    done = [c for completions in DeviceRun(group, table) for c in completions]
    assert sorted(c.request_index for c in done) == list(range(len(table)))
    assert not any(c.error for c in done)


def test_a_group_that_killed_a_device_goes_to_another() -> None:
    suspects = Suspects()
    suspects.witnessed(np.array([3, 4]))
    assert not suspects.waiting, "one death says nothing"
    suspects.witnessed(np.array([4, 5]))
    assert suspects.requests.tolist() == [4]
    for device in (0, 1):
        group = suspects.take(device, others=True)
        assert group is not None
        assert not len(suspects.killed(device, group, group.requests, devices=2))
        assert device == 1 or suspects.take(0, others=True) is None
    group = suspects.take(0, others=True)
    assert group is not None
    assert suspects.killed(0, group, group.requests, devices=2).tolist() == [4]


def test_breaking_off_ends_the_processes() -> None:
    table = families(2, 40)
    group = ClockGroup(2, np.full(len(table), 30), COSTS)
    for completions in DeviceRun(group, table):
        if completions:
            break
    assert group.closed


def test_assignments_refuse_what_cannot_be() -> None:
    ledger = Assignments(np.ones(4))
    ledger.assign(0, np.array([0, 1]))
    with pytest.raises(InternalError, match="two devices"):
        ledger.assign(1, np.array([1, 2]))
    with pytest.raises(InternalError, match="has it not"):
        ledger.complete(1, np.array([0]))
    with pytest.raises(InternalError, match="it has not"):
        ledger.released(0, np.array([2]))
    with pytest.raises(InternalError, match="has it not"):
        ledger.complete(0, np.array([0, 0]))
    ledger.complete(0, np.array([0]))
    with pytest.raises(InternalError, match="has it not"):
        ledger.complete(0, np.array([0]))


def test_whom_to_ask() -> None:
    ledger = Assignments(np.array([1.0, 5.0, 2.0, 2.0, 3.0]))
    ledger.assign(0, np.array([0]))
    ledger.assign(1, np.array([1, 2]))
    ledger.assign(2, np.array([3, 4]))
    assert ledger.ask([0, 1, 2], 1) == {1: 1}
    assert ledger.ask([0, 1, 2], 1) == {}, "the idle one is promised something already"
    ledger.released(1, np.array([], dtype=np.int64))
    assert ledger.ask([0, 1, 2], 1) == {2: 1}, "the first had nothing to give"
    ledger.released(2, np.array([4]))
    assert ledger.waiting.tolist() == [4]
    assert ledger.ask([0, 2], 1) == {2: 1}
    assert ledger.take_back(2).tolist() == [3]
    assert ledger.asked == {}
    ledger.assign(1, np.array([3]))
    assert ledger.ask([1], 1) == {1: 1}, "it has got new requests"


def test_many_idle_devices_are_dealt_to_those_with_the_most_left() -> None:
    ledger = Assignments(np.array([9.0, 4.0, 4.0, 1.0]))
    for device in range(4):
        ledger.assign(device, np.array([device]))
    assert ledger.ask([0, 1, 2, 3], 3) == {0: 2, 1: 1}
    assert ledger.promised == 3
    assert ledger.ask([0, 1, 2, 3], 4) == {2: 1}, "who was asked is not asked again"
