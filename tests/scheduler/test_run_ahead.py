"""Planning the next batch while one runs changes no answer, whatever happens in between."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.errors import InternalError
from shoal.scheduler import Launched, Scheduler, TokenBatch
from shoal.types import BoolArray, Int32Array
from tests.helpers.fake_executor import answer
from tests.scheduler.test_scheduler import Driver, Job, jobs


@dataclass
class Chances:
    """What goes wrong, by the number of the batch."""

    launch_fails: set[int] = field(default_factory=set)
    collect_fails: set[int] = field(default_factory=set)
    cancels: dict[int, int] = field(default_factory=dict)
    most_tokens: int = 10**9
    sequential: list[bool] | None = None


class AheadDriver(Driver):
    """Keeps two batches under way; settles the oldest before a third."""

    def __init__(self, job: Job, chances: Chances | None = None) -> None:
        super().__init__(job)
        self.chances = chances or Chances()
        sequential = self.chances.sequential
        columns = None if sequential is None else np.array(sequential)
        self.scheduler = Scheduler(self.table, self.plan, self.pool, job.budget, sequential=columns)
        self.flights: deque[tuple[Launched, Int32Array, BoolArray, int]] = deque()
        self.answers: dict[int, list[int]] = {}
        self.cancelled: set[int] = set()
        self.overlapped = 0
        self.failures = 0
        self.launched = 0

    def run(self) -> None:
        for _ in range(30_000):
            batch = self.step()
            if batch is None and not self.flights:
                break
            if batch is not None:
                self.overlapped += len(self.flights)
                if self.launch(batch) and len(self.flights) == 1:
                    continue
            if self.flights:
                self.settle()
        else:
            pytest.fail("the job does not end")
        assert self.scheduler.done
        assert self.pool.used_blocks == 0
        # What a last batch failed to release goes with the executor, which is made for a run.
        assert [*self.executor.retained] == self.scheduler._state.retained.unneeded()

    def launch(self, batch: TokenBatch) -> bool:
        number, self.launched = self.launched, self.launched + 1
        assert len(self.flights) < 2
        assert batch.num_tokens <= self.scheduler.token_budget
        victim = self.chances.cancels.get(number)
        if batch.num_tokens > self.chances.most_tokens:
            while self.flights:
                self.settle()
            self.scheduler.shrink(max(1, self.scheduler.token_budget // 2))
            self.scheduler.retry(batch, one_by_one=False)
            return False
        if number in self.chances.launch_fails:
            while self.flights:
                self.settle()
            self.failures += 1
            self.scheduler.retry(batch)
            return False
        tokens, finished = self.executor.launch(batch, self.job.block_size)
        self.flights.append((self.scheduler.advance(batch), tokens, finished, number))
        if victim is not None and victim < self.plan.num_sequences:
            if victim not in self.finished:
                self.cancelled.add(victim)
            self.scheduler.cancel(victim)
            self.finished.add(victim)
        return True

    def settle(self) -> None:
        launched, tokens, finished, number = self.flights.popleft()
        batch = launched.batch
        if number in self.chances.collect_fails:
            self.failures += 1
            failed = [launched, *(later for later, *_ in self.flights)]
            for each in reversed(failed):
                self.executor.spoil(each.batch)
            self.flights.clear()
            self.scheduler.retry(batch, failed)
            return
        self.executor.release(batch)
        wanted = self.scheduler.wanted(launched)
        for sequence, token, last, counts in zip(
            batch.sample_sequences.tolist(),
            tokens.tolist(),
            finished.tolist(),
            wanted.tolist(),
            strict=True,
        ):
            if counts:
                self.answers.setdefault(sequence, []).append(token)
                if last:
                    self.finished.add(sequence)
        self.scheduler.settle(launched, tokens, finished)

    def step(self, launched: Launched | None = None) -> TokenBatch | None:
        before = self.pool.free_blocks
        launched = self.flights[0][0] if self.flights else None
        isolating = self.scheduler.isolating
        batch = self.scheduler.step(launched) if isolating else super().step(launched)
        assert self.pool.free_blocks <= before or not self.flights
        return batch

    def check(self) -> None:
        for sequence in set(range(self.plan.num_sequences)) - self.cancelled:
            request = int(self.plan.sequence_request[sequence])
            expected = answer(self.job.prompts[request], self.job.lengths[request])
            assert self.answers[sequence] == expected


@pytest.mark.long
@settings(max_examples=120, deadline=None)
@given(jobs())
def test_the_answers_are_the_same(job: Job) -> None:
    driver = AheadDriver(job)
    driver.run()
    driver.check()
    stats = driver.scheduler.stats
    assert stats.generated_tokens == sum(map(len, driver.answers.values()))
    once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
    assert once == driver.plan.computed_prompt_tokens
    assert stats.preemptions or stats.prompt_tokens_recomputed == 0


@pytest.mark.long
@settings(max_examples=120, deadline=None)
@given(jobs(), st.sets(st.integers(0, 25), max_size=4), st.sets(st.integers(0, 25), max_size=4))
def test_batches_that_fail_at_launch_or_later(job: Job, launch: set[int], late: set[int]) -> None:
    driver = AheadDriver(job, Chances(launch, late))
    driver.run()
    driver.check()
    assert driver.scheduler.stats.generated_tokens == sum(map(len, driver.answers.values()))
    stats = driver.scheduler.stats
    once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
    assert once == driver.plan.computed_prompt_tokens, "what failed is counted apart"


@pytest.mark.long
@settings(max_examples=80, deadline=None)
@given(
    jobs(),
    st.dictionaries(st.integers(0, 12), st.integers(0, 12), max_size=4),
    st.sets(st.integers(0, 12), max_size=2),
)
def test_cancelling_while_batches_are_under_way(
    job: Job, cancels: dict[int, int], late: set[int]
) -> None:
    driver = AheadDriver(job, Chances(cancels=cancels, collect_fails=late))
    driver.run()
    driver.check()


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(jobs(), st.integers(1, 20), st.sets(st.integers(0, 20), max_size=2))
def test_a_budget_that_shrinks_below_the_decodes(job: Job, most: int, late: set[int]) -> None:
    driver = AheadDriver(job, Chances(collect_fails=late, most_tokens=most))
    driver.run()
    driver.check()


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(jobs(), st.data())
def test_nothing_is_planned_over_sequential_samples(job: Job, data: st.DataObject) -> None:
    sequential = [data.draw(st.booleans()) for _ in job.prompts]
    driver = AheadDriver(job, Chances(sequential=sequential))
    launch = driver.launch

    def checked(batch: TokenBatch) -> bool:
        for earlier, *_ in driver.flights:
            requests = driver.plan.sequence_request[earlier.batch.sample_sequences]
            assert not np.array(sequential)[requests].any()
        return launch(batch)

    driver.launch = checked  # type: ignore[method-assign]
    driver.run()
    driver.check()


def simple(prompts: int, length: int, spare: int = 99, limit: int | None = None) -> Job:
    ones = [1] * prompts
    limits = [limit or length] * prompts
    texts = [[request, 1, 2] for request in range(prompts)]
    return Job(
        texts, limits, limits, [length] * prompts, ones, Sharing.none, Order.input, 64, 4, spare
    )


def test_every_batch_but_the_first_is_planned_while_another_runs() -> None:
    driver = AheadDriver(simple(3, 10))
    driver.run()
    driver.check()
    assert driver.launched == driver.scheduler.stats.iterations == 10
    assert driver.overlapped == 9


def test_an_end_that_was_not_foreseen_costs_one_row() -> None:
    driver = AheadDriver(simple(3, 5, limit=10))
    driver.run()
    driver.check()
    assert driver.scheduler.stats.iterations == 6
    assert driver.scheduler.stats.tokens == 3 * 3 + 3 * 5
    assert driver.scheduler.stats.generated_tokens == 15


def test_memory_that_is_short_waits_for_the_batch_under_way() -> None:
    """Sequences that end make room: nobody is preempted for them."""
    job = simple(4, 6, spare=4, limit=30)
    job.expected = [6] * 4
    ahead, plain = AheadDriver(job), Driver(job)
    ahead.run()
    ahead.check()
    plain.run()
    assert ahead.scheduler.stats.preemptions == plain.scheduler.stats.preemptions


def test_decodes_beyond_the_budget_take_turns() -> None:
    driver = AheadDriver(simple(8, 12))
    batch = driver.scheduler.step()
    assert batch is not None
    driver.scheduler.commit(batch, *driver.executor.execute(batch, 4))
    driver.answers = {s: list(g) for s, g in driver.executor.generated.items()}
    driver.scheduler.shrink(3)
    batch = driver.scheduler.step()
    assert batch is not None
    assert batch.sample_sequences.tolist() == [0, 1, 2]
    driver.scheduler.commit(batch, *driver.executor.execute(batch, 4))
    driver.answers = {s: list(g) for s, g in driver.executor.generated.items()}
    driver.run()
    driver.check()


def test_batches_are_settled_in_order() -> None:
    driver = AheadDriver(simple(2, 6))
    first = driver.scheduler.step()
    assert first is not None
    launched = driver.scheduler.advance(first)
    second = driver.scheduler.step(launched)
    assert second is not None
    later = driver.scheduler.advance(second)
    with pytest.raises(InternalError, match="oldest"):
        driver.scheduler.settle(later, np.zeros(2, np.int32), np.zeros(2, np.bool_))


def test_no_batch_under_way_is_left_out() -> None:
    scheduler = AheadDriver(simple(2, 6)).scheduler
    first = scheduler.step()
    assert first is not None
    launched = scheduler.advance(first)
    with pytest.raises(InternalError, match="under way"):
        scheduler.step()
    with pytest.raises(InternalError, match="under way"):
        scheduler.retry(first)
    second = scheduler.step(launched)
    assert second is not None
    later = scheduler.advance(second)
    with pytest.raises(InternalError, match="under way"):
        scheduler.step(launched)
    with pytest.raises(InternalError, match="under way"):
        scheduler.retry(second, [later])
    scheduler.retry(first, [launched, later])
    with pytest.raises(InternalError, match="under way"):
        scheduler.step(launched)


def test_a_sequence_must_end_at_its_limit() -> None:
    driver = AheadDriver(simple(1, 1))
    batch = driver.scheduler.step()
    assert batch is not None
    with pytest.raises(InternalError, match="limit"):
        driver.scheduler.commit(batch, np.zeros(1, np.int32), np.zeros(1, np.bool_))


def choices(count: int, limit: int, budget: int) -> AheadDriver:
    """Choices of one request, all of whose prompt is shared."""
    many = [[1, 2]], [limit], [limit], [limit], [count]
    return AheadDriver(Job(*many, Sharing.forest, Order.input, budget, 4, 99))


def test_a_release_that_failed_with_its_batch_comes_again() -> None:
    """Logits kept for choices that were cancelled since."""
    driver = choices(3, limit=5, budget=2)
    scheduler = driver.scheduler
    batch = scheduler.step()
    assert batch is not None
    assert len(batch.retain) == 1
    scheduler.commit(batch, *driver.executor.execute(batch, 4))
    scheduler.cancel(1)
    scheduler.cancel(2)
    for _ in range(2):
        failing = scheduler.step()
        assert failing is not None
        assert failing.release == (batch.retain[0][1],)
        scheduler.retry(failing, [scheduler.advance(failing)])


def test_cancelling_a_choice_whose_only_token_is_under_way() -> None:
    driver = choices(2, limit=1, budget=10)
    batch = driver.scheduler.step()
    assert batch is not None
    tokens, finished = driver.executor.execute(batch, 4)
    launched = driver.scheduler.advance(batch)
    driver.scheduler.cancel(1)
    driver.scheduler.settle(launched, tokens, finished)
    assert driver.scheduler._state.retained.unsampled(0) == 0
    assert driver.scheduler.done
