"""Layers with a window keep what rows to come can see, and no more than is forecast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.scheduler import BlockPool, Scheduler, TokenBatch
from shoal.scheduler.ledger import BlockLedger
from shoal.types import BoolArray, Int32Array
from shoal.work import SegmentWork, Window
from tests.helpers.fake_executor import CheckingExecutor
from tests.scheduler.test_run_ahead import AheadDriver, Chances
from tests.scheduler.test_scheduler import Job, jobs


@dataclass
class Windows:
    """A second group of layers.

    Attributes:
        spare: blocks beyond what the largest sequence needs by itself.
    """

    window: Window
    spare: int


windows = st.builds(
    Windows,
    st.builds(Window, st.sampled_from([1, 2, 5, 9, 16]), st.booleans()),
    st.sampled_from([0, 0, 1, 4, 1000]),
)


class WindowExecutor(CheckingExecutor):
    """Checks that each row finds in the second group all that its window shows."""

    window: Window
    more: np.ndarray

    def launch(self, batch: TokenBatch, block_size: int) -> tuple[Int32Array, BoolArray]:
        results = super().launch(batch, block_size)
        (group,) = batch.others
        assert len(np.unique(group.slots)) == batch.num_tokens
        self.more[group.slots] = self.kv[batch.slots]
        np.testing.assert_array_equal(group.attention.positions, batch.positions)
        for row in range(batch.num_tokens):
            self.check(group.attention, row, batch)
        return results

    def spoil(self, batch: TokenBatch) -> None:
        super().spoil(batch)
        self.more[batch.others[0].slots] = -7

    def check(self, work: SegmentWork, row: int, batch: TokenBatch) -> None:
        seen = []
        for item in range(len(work)):
            first, last = int(work.row_first[item]), int(work.row_last[item])
            if first <= row < last:
                tokens = int(work.kv_tokens[item])
                hidden = int(work.hidden(item, self.window)[row - first])
                tokens -= last - row - 1 if work.causal[item] else 0
                seen += self.more[work.slots(item, hidden, tokens)].tolist()
        position = int(batch.positions[row])
        first = int(self.window.first(np.array([position]))[0])
        whole = self.context(batch, row, work.block_size)
        expected = [[whole[p], p] for p in range(first, position + 1)]
        assert sorted(seen, key=lambda each: each[1]) == expected


class WindowDriver(AheadDriver):
    """Two groups of layers: one sees everything, one has a window."""

    def __init__(self, job: Job, windows: Windows, chances: Chances | None = None) -> None:
        super().__init__(job, chances)
        size, plan = job.block_size, self.plan
        ledger = BlockLedger(BlockPool(1, size, windows.window), 1)
        needed = []
        for sequence, request in enumerate(plan.sequence_request.tolist()):
            path = plan.path(int(plan.sequence_segment[sequence]))
            own = len(job.prompts[request]) - plan.shared_length_of(sequence)
            total = own + job.limits[request] - 1
            lengths = [int(plan.segment_length[segment]) for segment in path]
            needed.append(ledger.missing_blocks(lengths) + ledger.most_blocks(total))
        self.windowed = BlockPool(max(max(needed), 1) + windows.spare, size, windows.window)
        self.scheduler = Scheduler(self.table, plan, [self.pool, self.windowed], job.budget)
        slots = self.pool.num_blocks * size
        self.executor = WindowExecutor(self.table, plan, slots, job.lengths)
        self.executor.window = windows.window
        self.executor.more = np.full((self.windowed.num_blocks * size, 2), -1, dtype=np.int64)

    def run(self) -> None:
        super().run()
        assert self.windowed.used_blocks == 0
        assert self.windowed.peak_blocks <= self.windowed.num_blocks


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(jobs(), windows)
def test_no_block_is_freed_that_a_row_can_see(job: Job, windows: Windows) -> None:
    driver = WindowDriver(job, windows)
    driver.run()
    driver.check()


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(jobs(), windows, st.sets(st.integers(0, 30), max_size=4), st.sets(st.integers(0, 30)))
def test_batches_that_fail_find_what_they_need_again(
    job: Job, windows: Windows, launches: set[int], collects: set[int]
) -> None:
    driver = WindowDriver(job, windows, Chances(launches, collects))
    driver.run()
    driver.check()


@pytest.mark.long
def test_a_long_prompt_takes_a_window_and_a_chunk() -> None:
    """Of 2,000 tokens no more than window and chunk are held at a time, of a segment its end."""
    from shoal.config import Order, Sharing

    prompts = [[index % 3 for index in range(2000)] + [request] for request in range(4)]
    four = [30] * 4
    job = Job(prompts, four, four, four, [1] * 4, Sharing.forest, Order.input, 64, 16, 1000)
    driver = WindowDriver(job, Windows(Window(100), 1000))
    driver.run()
    driver.check()
    # Two batches may be under way; then four sequences share a window and have 31 tokens each.
    assert driver.windowed.peak_blocks <= (100 + 2 * 64) // 16 + 2 + 4 * 2
    assert driver.pool.peak_blocks >= 2000 // 16


@pytest.mark.long
def test_the_forecast_admits_what_fits_a_window_and_no_more() -> None:
    """Prompts of 64 blocks whose windows are of 2: as many run as windows fit."""
    from shoal.config import Order, Sharing

    prompts = [[request] * 64 for request in range(20)]
    many = [60] * 20
    job = Job(prompts, many, many, many, [1] * 20, Sharing.none, Order.input, 1000, 1, 10**4)
    driver = WindowDriver(job, Windows(Window(2), 24))
    driver.run()
    driver.check()
    assert driver.windowed.peak_blocks <= 24 + 6
    assert driver.scheduler.stats.preemptions == 0
    assert driver.overlapped > 0


@given(
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), min_size=1, max_size=12),
    st.sampled_from([1, 2, 3, 16]),
    st.integers(1, 30),
)
def test_a_capped_forecast_is_the_exact_peak(
    sequences: list[tuple[int, int]], block_size: int, cap: int
) -> None:
    from shoal.scheduler import forecast_peak_blocks

    peak = 0
    for step in range(51):
        alive = [held + step for held, growth in sequences if growth >= step]
        peak = max(peak, sum(min(-(-tokens // block_size), cap) for tokens in alive))
    held, growth = np.array(sequences, dtype=np.int64).T
    assert forecast_peak_blocks(held, growth, block_size, cap) == peak
