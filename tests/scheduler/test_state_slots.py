"""Recurrent layers go on from the state of exactly the tokens before, whatever happens between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.costs import StateLayers
from shoal.planner import make_plan
from shoal.scheduler import BlockPool, Scheduler, StateSlots, TokenBatch, state_split
from shoal.state_work import FROM_NOTHING
from tests.helpers.fake_executor import CheckingExecutor, make_table
from tests.helpers.machines import machine
from tests.scheduler.test_run_ahead import AheadDriver, Chances
from tests.scheduler.test_scheduler import Job, jobs

_SPOILT = [-7]


class StatefulExecutor(CheckingExecutor):
    """A state is the list of the tokens it comes from."""

    states: dict[int, list[int]]

    def launch(self, batch: TokenBatch, block_size: int) -> tuple[object, object]:  # type: ignore[override]
        results = super().launch(batch, block_size)
        work = batch.states
        assert work is not None
        assert len(set(work.target.tolist())) == len(work.target)
        contexts = [self.context(batch, row, block_size) for row in range(batch.num_tokens)]
        for chunk in np.argsort(work.level, kind="stable").tolist():
            source = int(work.source[chunk])
            begin = [] if source == FROM_NOTHING else self.states[source]
            assert contexts[work.row_first[chunk]][:-1] == begin
            self.states[int(work.target[chunk])] = contexts[work.row_first[chunk + 1] - 1]
        return results

    def spoil_states(self, batch: TokenBatch) -> None:
        """The batch failed after it had written to its states."""
        assert batch.states is not None
        for target in batch.states.target.tolist():
            self.states[target] = _SPOILT

    def spoil(self, batch: TokenBatch) -> None:
        super().spoil(batch)
        self.spoil_states(batch)


class StateDriver(AheadDriver):
    """The same runs, with as few states as one sequence may need, and `spare` more."""

    def __init__(self, job: Job, spare: int, chances: Chances | None = None) -> None:
        super().__init__(job, chances)
        plan = self.plan
        depth = np.zeros(plan.num_segments + 1, dtype=np.int64)
        for segment, parent in enumerate(plan.segment_parent.tolist()):
            depth[segment] = depth[parent] + 1
        least = 1 + int(depth[plan.sequence_segment].max())
        self.slots = StateSlots(BlockPool(least + spare, 1))
        self.scheduler = Scheduler(self.table, plan, self.pool, job.budget, states=self.slots)
        num_slots = self.pool.num_blocks * job.block_size
        self.executor = StatefulExecutor(self.table, plan, num_slots, job.lengths)
        self.executor.states = {}

    def launch(self, batch: TokenBatch) -> bool:
        if self.launched in self.chances.launch_fails:
            assert isinstance(self.executor, StatefulExecutor)
            self.executor.spoil_states(batch)
        return super().launch(batch)

    def run(self) -> None:
        super().run()
        assert self.slots.pool.used_blocks == 0
        assert self.scheduler.blocks_left() == 0


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(jobs(), st.integers(0, 6))
def test_every_chunk_goes_on_from_what_came_before(job: Job, spare: int) -> None:
    driver = StateDriver(job, spare)
    driver.run()
    driver.check()


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(
    jobs(),
    st.integers(0, 4),
    st.sets(st.integers(0, 25), max_size=4),
    st.sets(st.integers(0, 25), max_size=4),
    st.dictionaries(st.integers(0, 20), st.integers(0, 12), max_size=3),
)
def test_failures_and_cancellations(
    job: Job, spare: int, launch: set[int], late: set[int], cancels: dict[int, int]
) -> None:
    driver = StateDriver(job, spare, Chances(launch, late, cancels))
    driver.run()
    driver.check()


@pytest.mark.parametrize("fails", [set(), {3, 9}], ids=["smooth", "with failures"])
def test_nested_segments(fails: set[int]) -> None:
    top = list(range(2, 23))
    prompts = [top, *([*top, *range(30, 41), i, i] for i in range(2, 6)), [*top, 7], [9] * 5]
    job = Job(
        prompts=prompts,
        limits=[9] * 7,
        expected=[9] * 7,
        lengths=[9] * 7,
        choices=[2, 1, 1, 1, 1, 1, 1],
        sharing=Sharing.forest,
        order=Order.ratio,
        budget=8,
        block_size=4,
        spare_blocks=6,
    )
    driver = StateDriver(job, 1, Chances(launch_fails=fails, collect_fails={5} if fails else set()))
    driver.run()
    driver.check()
    assert driver.slots.pool.peak_blocks == driver.slots.pool.num_blocks


def test_memory_is_divided_by_what_a_plan_holds() -> None:
    prompts = [[7] * 640 + [i] * 64 for i in range(1, 33)]
    table = make_table(prompts, [32] * 32, [32] * 32, [1] * 32)
    divided = machine(blocks=100, budget=512, states=StateLayers(tokens=320.0))
    plan = make_plan(table, sharing=Sharing.forest, order=Order.ratio, machine=divided)
    split = state_split(plan, table, divided)
    assert split is not None
    assert split.blocks + split.states * 10 <= 100 + 10
    assert split.states >= 2
    assert split.blocks >= 23


def test_too_many_segments_above_a_prompt_are_not_shared() -> None:
    """Each would hold a state; the memory has room for two beside the largest request."""
    prompts = [list(range(2, 2 + 40 * n)) for n in range(1, 9) for _ in range(2)]
    table = make_table(prompts, [4] * 16, [4] * 16, [1] * 16)
    small = machine(blocks=13, budget=64, states=StateLayers(tokens=32.0))
    plan = make_plan(table, sharing=Sharing.forest, order=Order.ratio, machine=small)
    split = state_split(plan, table, small)
    assert split is not None
    pool = BlockPool(split.blocks)
    scheduler = Scheduler(table, plan, pool, 64, states=split.slots())
    while (batch := scheduler.step()) is not None:
        tokens = np.zeros(len(batch.sample_sequences), dtype=np.int32)
        scheduler.commit(batch, tokens, batch.sample_positions + 1 >= 4)
    assert scheduler.blocks_left() == 0
