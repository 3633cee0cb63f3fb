from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.planner import Plan, make_plan
from shoal.scheduler import BlockPool, Launched, Scheduler, TokenBatch
from shoal.scheduler.forecast import remaining_growth
from tests.helpers.fake_executor import CheckingExecutor, answer, make_table
from tests.helpers.machines import machine


@dataclass
class Job:
    prompts: list[list[int]]
    limits: list[int]
    expected: list[int]
    lengths: list[int]
    choices: list[int]
    sharing: Sharing
    order: Order
    budget: int
    block_size: int
    spare_blocks: int


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    stems = draw(st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=4))
    prompts, limits, expected, lengths, choices = [], [], [], [], []
    for _ in range(draw(st.integers(1, 10))):
        stem = list(draw(st.sampled_from(stems)))
        if draw(st.booleans()):
            stem += draw(st.sampled_from(stems))
        prompt = stem + draw(st.lists(st.integers(0, 2), max_size=6))
        prompts.append(prompt or [1])
        limits.append(draw(st.integers(1, 12)))
        expected.append(draw(st.integers(1, 12)))
        lengths.append(draw(st.integers(1, limits[-1])))
        choices.append(draw(st.sampled_from([1, 1, 1, 2, 3])))
    return Job(
        prompts,
        limits,
        expected,
        lengths,
        choices,
        sharing=draw(st.sampled_from(list(Sharing))),
        order=draw(st.sampled_from(list(Order))),
        budget=draw(st.sampled_from([1, 2, 7, 16, 33, 1000])),
        block_size=draw(st.sampled_from([1, 4, 16])),
        spare_blocks=draw(st.sampled_from([0, 0, 1, 3, 20, 1000])),
    )


class Driver:
    """Runs a job and checks what must hold after every iteration."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.table = make_table(job.prompts, job.limits, job.expected, job.choices)
        needs = [
            -(-(len(p) + limit - 1) // job.block_size)
            for p, limit in zip(job.prompts, job.limits, strict=True)
        ]
        self.pool = BlockPool(max(needs) + job.spare_blocks, job.block_size)
        self.plan: Plan = make_plan(
            self.table,
            sharing=job.sharing,
            order=job.order,
            machine=machine(blocks=self.pool.num_blocks, block_size=job.block_size),
        )
        self.scheduler = Scheduler(self.table, self.plan, self.pool, job.budget)
        num_slots = self.pool.num_blocks * job.block_size
        self.finished: set[int] = set()
        self.executor = CheckingExecutor(self.table, self.plan, num_slots, job.lengths)

    def step(self, launched: Launched | None = None) -> TokenBatch | None:
        """One step: the first in the plan keeps running, and who waits is admitted in order."""
        before = set(self.running())
        batch = self.scheduler.step(launched)
        after = set(self.running())
        assert not before or min(before) in after
        unfinished = set(range(self.plan.num_sequences)) - self.finished
        assert max(after - before, default=-1) < min(unfinished - after, default=10**9)
        return batch

    def running(self) -> list[int]:
        columns = self.scheduler._state.running
        return columns.sequence[columns.in_order()].tolist()

    def run(self) -> None:
        steps = 0
        while (batch := self.step()) is not None:
            steps += 1
            assert steps < 20_000
            assert batch.num_tokens <= self.job.budget
            assert self.pool.used_blocks <= self.pool.num_blocks
            tokens, finished = self.executor.execute(batch, self.job.block_size)
            self.scheduler.commit(batch, tokens, finished)
            self.finished.update(batch.sample_sequences[finished].tolist())
        assert self.scheduler.done
        assert self.pool.used_blocks == 0
        assert self.executor.retained == {}


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(jobs())
def test_every_job_ends_with_the_right_answers_and_an_empty_pool(job: Job) -> None:
    driver = Driver(job)
    driver.run()
    plan, stats = driver.plan, driver.scheduler.stats
    assert set(driver.executor.generated) == set(range(plan.num_sequences))
    for sequence, generated in driver.executor.generated.items():
        request = int(plan.sequence_request[sequence])
        assert generated == answer(job.prompts[request], job.lengths[request])
    assert stats.generated_tokens == sum(len(g) for g in driver.executor.generated.values())
    once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
    assert once == plan.computed_prompt_tokens
    assert stats.preemptions or stats.prompt_tokens_recomputed == 0


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(jobs())
def test_exact_lengths_and_ample_memory_never_preempt(job: Job) -> None:
    job.spare_blocks = 1000
    job.expected = job.lengths = job.limits
    driver = Driver(job)
    driver.run()
    assert driver.scheduler.stats.preemptions == 0


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(jobs(), st.data())
def test_failed_batches_are_retried_one_sequence_at_a_time(job: Job, data: st.DataObject) -> None:
    """A sequence that fails twice is cancelled; all the others finish as if it were not there."""
    driver = Driver(job)
    poison = data.draw(st.integers(0, driver.plan.num_sequences - 1))
    strikes = 0
    cancelled: set[int] = set()
    steps = 0
    while True:
        alone = driver.scheduler.isolating
        batch = driver.scheduler.step()
        if batch is None:
            break
        steps += 1
        assert steps < 20_000
        if poison in batch.sequences.tolist():
            strikes += 1
            if not alone:
                driver.scheduler.retry(batch)
                continue
            assert len(batch.sequences) == 1
            cancelled.add(poison)
            driver.scheduler.cancel(poison)
            driver.scheduler.cancel(poison)
            continue
        tokens, finished = driver.executor.execute(batch, job.block_size)
        driver.scheduler.commit(batch, tokens, finished)
    assert driver.pool.used_blocks == 0
    assert cancelled == {poison}
    for sequence in set(range(driver.plan.num_sequences)) - cancelled:
        request = int(driver.plan.sequence_request[sequence])
        assert driver.executor.generated[sequence] == answer(
            job.prompts[request], job.lengths[request]
        )


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(jobs(), st.data())
def test_cancelling_at_any_time_leaks_nothing(job: Job, data: st.DataObject) -> None:
    driver = Driver(job)
    victims = data.draw(
        st.lists(st.integers(0, driver.plan.num_sequences - 1), max_size=4, unique=True)
    )
    cancelled = set()
    while (batch := driver.scheduler.step()) is not None:
        tokens, finished = driver.executor.execute(batch, job.block_size)
        driver.scheduler.commit(batch, tokens, finished)
        if victims and data.draw(st.booleans()):
            cancelled.add(victims[-1])
            driver.scheduler.cancel(victims.pop())
    assert driver.pool.used_blocks == 0
    assert driver.scheduler.done
    for sequence in set(range(driver.plan.num_sequences)) - cancelled:
        request = int(driver.plan.sequence_request[sequence])
        assert driver.executor.generated[sequence] == answer(
            job.prompts[request], job.lengths[request]
        )


def test_decodes_ride_with_prefill_chunks() -> None:
    """One iteration mixes one token per running decode with chunks up to the budget."""
    prompts = [[request] * 40 for request in range(4)]
    job = Job(prompts, [30] * 4, [30] * 4, [30] * 4, [1] * 4, Sharing.none, Order.input, 64, 16, 99)
    driver = Driver(job)
    sizes = []
    while (batch := driver.scheduler.step()) is not None:
        sizes.append((batch.num_tokens, len(batch.sample_sequences)))
        driver.scheduler.commit(batch, *driver.executor.execute(batch, 16))
    assert sizes[0] == (40 + 16, 1)  # the second prompt's chunk is cut to a tile
    assert sizes[1] == (1 + 24 + 32, 2)


def test_no_limit_on_the_number_of_requests() -> None:
    count = 1500
    prompts = [[0, 1, 2, request % 7, request] for request in range(count)]
    ones = [1] * count
    job = Job(
        prompts, [3] * count, [3] * count, [3] * count, ones, Sharing.forest, Order.ratio,
        100_000, 16, 5000,
    )  # fmt: skip
    driver = Driver(job)
    batch = driver.scheduler.step()
    assert batch is not None
    assert len(batch.sample_sequences) == count


@pytest.mark.parametrize(
    ("generated", "expected", "limit", "growth"),
    [(0, 10, 10, 9), (9, 10, 10, 0), (4, 4, 100, 3), (3, 4, 100, 0), (4, 4, 6, 1), (0, 1, 1, 0)],
)
def test_expected_length_doubles_when_outlived(
    generated: int, expected: int, limit: int, growth: int
) -> None:
    columns = (np.array([value]) for value in (generated, expected, limit))
    assert remaining_growth(*columns).tolist() == [growth]
