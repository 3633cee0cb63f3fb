"""Adapters in a run: one slice of each batch, in memory from first user to last, in a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order
from shoal.planner import make_plan
from shoal.scheduler import AdapterSlots, BlockPool, Scheduler
from shoal.types import BASE_MODEL, Adapter
from tests.helpers.fake_executor import CheckingExecutor, make_table
from tests.helpers.machines import machine

SIZES = (10, 20, 30, 40)
ADAPTERS = tuple(Adapter(f"a{size}", "", "", size) for size in SIZES)


class Job:
    """So many requests of a few prompts, each of some adapter."""

    def __init__(self, of: list[int], budget: int, order: Order, blocks: int) -> None:
        count = len(of)
        stems = [[1] * 20, [1] * 20 + [2] * 20, [3] * 5]
        prompts = [[*stems[i % 3], 10 + i] for i in range(count)]
        self.lengths = [1 + 7 * i % 19 for i in range(count)]
        table = make_table(prompts, [20] * count, [1] * count, [1] * count)
        self.of = np.array(of, dtype=np.int32)
        self.table = replace(table, adapters=ADAPTERS, adapter=self.of)
        self.machine = replace(machine(blocks=blocks, block_size=16), adapter_bytes=budget)
        self.plan = make_plan(self.table, order=order, machine=self.machine)
        self.slots = AdapterSlots.of(self.table, self.plan, self.machine)
        self.pool = BlockPool(blocks, 16)
        self.scheduler = Scheduler(self.table, self.plan, self.pool, 64, adapters=self.slots)
        self.executor = CheckingExecutor(
            self.table, self.plan, self.pool.num_blocks * 16, self.lengths
        )

    def run(self) -> list[int]:
        """Bytes in memory in every iteration."""
        used = []
        while (batch := self.scheduler.step()) is not None:
            rows, chunks = batch.adapters, batch.chunks
            assert rows is not None
            assert self.slots is not None
            assert rows.starts[0] == 0
            assert rows.starts[-1] == batch.num_tokens
            assert len(set(rows.adapter.tolist())) == len(rows.adapter), "one slice each"
            assert set(rows.adapter.tolist()) - {BASE_MODEL} <= set(rows.resident)
            for row, request in zip(chunks.row_starts[:-1], self._requests(chunks), strict=True):
                run = np.searchsorted(rows.starts, row, side="right") - 1
                assert rows.adapter[run] == self.of[request]
            used.append(self.slots.used_bytes)
            tokens, finished = self.executor.execute(batch, 16)
            self.scheduler.commit(batch, tokens, finished)
        assert self.slots is not None
        assert self.slots.used_bytes == 0
        assert self.slots.resident == ()
        assert self.pool.used_blocks == 0
        return used

    def _requests(self, chunks):
        running = self.scheduler._state.running
        segments, slots = iter(chunks.segments.tolist()), iter(chunks.slots.tolist())
        for shared in chunks.shared.tolist():
            if shared:
                yield int(self.plan.segment_request[next(segments)])
            else:
                yield int(self.plan.sequence_request[running.sequence[next(slots)]])


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(BASE_MODEL, len(SIZES) - 1), min_size=2, max_size=24),
    st.sampled_from([1, 45, 70, 1000]),
    st.sampled_from(list(Order)),
    st.sampled_from([6, 9, 500]),
)
def test_slices_and_budget(of: list[int], budget: int, order: Order, blocks: int) -> None:
    if set(of) == {BASE_MODEL}:
        of[0] = 0
    job = Job(of, budget, order, blocks)
    assert max(job.run()) <= max(budget, max(SIZES[each] for each in of if each >= 0))
    assert job.slots is not None
    if not job.scheduler.stats.preemptions:
        assert job.slots.loads == len(set(of) - {BASE_MODEL})


def test_a_group_waits_for_memory() -> None:
    """Two adapters of 40 and 30 bytes run together in 70 bytes, one after another in 60."""
    together, apart = (Job([3, 2, 3, 2], budget, Order.input, 500) for budget in (70, 60))
    assert max(together.run()) == 70
    assert max(apart.run()) == 40
    assert apart.slots is not None
    assert apart.slots.loads == 2


def test_who_is_idle_makes_way() -> None:
    slots = AdapterSlots(ADAPTERS, np.array([0, 0, 1, 2]), 50)
    slots.enter(0)
    slots.enter(1)
    assert not slots.fits(2)
    slots.leave(0, finished=False)
    assert slots.fits(2)
    slots.enter(2)
    assert slots.resident == (1, 2)
    assert slots.used_bytes == slots.peak_bytes == 50


@pytest.mark.parametrize("cancelled", [True, False])
def test_the_last_user_takes_its_adapter_along(cancelled: bool) -> None:
    slots = AdapterSlots(ADAPTERS, np.array([1, 1, BASE_MODEL]), 50)
    slots.enter(1)
    slots.enter(BASE_MODEL)
    slots.leave(1, finished=True)
    assert slots.resident == (1,)
    if cancelled:
        slots.user_finished(1)
    else:
        slots.enter(1)
        slots.leave(1, finished=True)
    assert slots.resident == ()
