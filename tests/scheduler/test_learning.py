"""The scheduler with learnt lengths: the same answers in fewer iterations, groups that move."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.planner import LengthModel, Pilot, make_plan, pilot_first
from shoal.planner.rearrange import with_first, with_groups_sorted
from shoal.scheduler import BlockPool, Scheduler
from shoal.scheduler.forecast import PeakForecast
from shoal.scheduler.growth import LearntGrowth
from shoal.types import LengthCounts
from tests.helpers.fake_executor import CheckingExecutor, answer
from tests.planner.test_lengths import LIMIT
from tests.planner.test_pilot import job as pilot_job
from tests.scheduler.test_scheduler import Driver, Job, jobs


class LearningDriver(Driver):
    """A driver whose scheduler learns; some sequences are put first."""

    def __init__(self, job: Job, first: list[bool]) -> None:
        super().__init__(job)
        chosen = np.array(first)[self.plan.sequence_request]
        self.plan = with_first(self.plan, chosen, self.table)
        lengths = LengthModel(self.plan, self.table)
        self.scheduler = Scheduler(self.table, self.plan, self.pool, job.budget, lengths)
        num_slots = self.pool.num_blocks * job.block_size
        self.executor = CheckingExecutor(self.table, self.plan, num_slots, job.lengths)

    def replan(self, seed: int) -> None:
        """Shuffle the groups that have not begun."""
        begin = int(np.searchsorted(self.plan.groups, self.scheduler.first_untouched))
        groups = len(self.plan.groups) - 1 - begin
        if groups < 0:
            return
        key = np.random.default_rng(seed).random(groups)
        self.plan = self.executor.plan = with_groups_sorted(self.plan, begin, key)
        self.scheduler.replan(self.plan)


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(jobs(), st.data())
def test_learning_and_replanning_change_no_answer(job: Job, data: st.DataObject) -> None:
    first = [data.draw(st.booleans()) for _ in job.prompts]
    driver = LearningDriver(job, first)
    replans = data.draw(st.sets(st.integers(0, 30), max_size=3))
    victim = data.draw(st.none() | st.integers(0, driver.plan.num_sequences - 1))
    answers: dict[tuple[int, int], list[int]] = {}
    cancelled: set[tuple[int, int]] = set()
    for step in range(20_000):
        if step in replans:
            driver.replan(step)
        if step == 3 and victim is not None and victim < driver.scheduler.first_untouched:
            driver.scheduler.cancel(victim)
            driver.finished.add(victim)
            cancelled.add(
                (
                    int(driver.plan.sequence_request[victim]),
                    int(driver.plan.sequence_choice[victim]),
                )
            )
        batch = driver.step()
        if batch is None:
            break
        assert batch.num_tokens <= job.budget
        tokens, finished = driver.executor.execute(batch, job.block_size)
        driver.scheduler.commit(batch, tokens, finished)
        for sequence in batch.sample_sequences[finished].tolist():
            driver.finished.add(sequence)
            name = (
                int(driver.plan.sequence_request[sequence]),
                int(driver.plan.sequence_choice[sequence]),
            )
            answers[name] = driver.executor.generated[sequence]
    assert driver.scheduler.done
    assert driver.pool.used_blocks == 0
    assert driver.executor.retained == {}
    wanted = {(r, c) for r, n in enumerate(job.choices) for c in range(n)}
    assert wanted - cancelled <= set(answers) <= wanted
    for (request, _), generated in answers.items():
        assert generated == answer(job.prompts[request], job.lengths[request])
    stats = driver.scheduler.stats
    if stats.preemptions == 0 and not cancelled:
        assert stats.prompt_tokens_computed == driver.plan.computed_prompt_tokens


def run_to_end(learns: bool, seed: int = 5) -> tuple[Scheduler, list[int]]:
    """1,200 requests with a loose limit, in little memory; answers of 10, 20 or 40 by template."""
    table = pilot_job({300: 4})
    plan = make_plan(table)
    lengths = LengthModel(plan, table) if learns else None
    plan, count = pilot_first(plan, table)
    assert count > 0
    template = table.tokens[table.offsets[:-1]]
    random = np.random.default_rng(seed)
    median = np.array([10, 20, 40, 40])[template - template.min()]
    length = np.clip(median * np.exp(0.3 * random.standard_normal(len(table))), 1, LIMIT).astype(
        int
    )
    pilot = Pilot(table, lengths, count) if lengths else None
    scheduler = Scheduler(table, plan, BlockPool(400, 16), 256, lengths)
    ended: list[int] = []
    while (batch := scheduler.step()) is not None:
        sequences = batch.sample_sequences
        finished = batch.sample_positions + 1 == length[plan.sequence_request[sequences]]
        scheduler.commit(batch, np.zeros(len(sequences), dtype=np.int32), finished)
        ended += plan.sequence_request[sequences[finished]].tolist()
        if pilot is not None and pilot.ended(sequences[finished]):
            plan = pilot.replan(plan, scheduler.first_untouched)
            scheduler.replan(plan)
    assert sorted(ended) == list(range(len(table)))
    return scheduler, ended


@pytest.mark.long
def test_learning_fills_the_memory_and_is_calibrated_and_repeatable() -> None:
    prior, _ = run_to_end(learns=False)
    learnt, ended = run_to_end(learns=True)
    assert learnt.stats.iterations < 0.6 * prior.stats.iterations
    assert learnt.stats.preemptions < 0.05 * len(ended)
    counts = LengthCounts()
    assert learnt.length_coverage is not None
    assert prior.length_coverage is None
    learnt.length_coverage.report(counts)
    assert counts.answers == len(ended)
    assert (counts.within_10, counts.within_50, counts.within_90) == pytest.approx(
        (0.1, 0.5, 0.9), abs=0.12
    )
    again, ended_again = run_to_end(learns=True)
    assert ended_again == ended
    assert again.stats == learnt.stats


@given(
    st.lists(st.tuples(st.integers(0, 70), st.integers(0, 50)), max_size=8),
    st.floats(0, 2),
    st.integers(0, 60),
)
def test_caution_keeps_a_root_sum_of_squares_in_reserve(
    running: list[tuple[int, int]], caution: float, blocks: int
) -> None:
    columns = np.array(running, dtype=np.int64).reshape(-1, 2).T
    reserve = int(np.ceil(caution * np.sqrt((columns[1] ** 2).sum()) / 4))
    plain = PeakForecast(columns[0], columns[1], 4)
    careful = PeakForecast(columns[0], columns[1], 4, caution)
    assert careful.fits(blocks + reserve) == plain.fits(blocks)


def test_quantiles_of_neighbours_are_spread_evenly() -> None:
    table = pilot_job({300: 4})
    plan = make_plan(table)
    lengths = LengthModel(plan, table)
    requests = plan.sequence_request[:200].astype(np.int64)
    lengths.observe(requests, np.arange(1, 201))
    lengths.estimate(requests, np.zeros(200, dtype=np.int64))
    growth = LearntGrowth(plan, lengths)
    sequences = np.arange(200, 260)
    found = np.sort(growth.running(sequences, np.zeros(60, dtype=np.int64)))
    even = lengths.quantile(
        plan.sequence_request[sequences].astype(np.int64),
        np.zeros(60, dtype=np.int64),
        (np.arange(60) + 0.5) / 60,
    )
    assert np.abs(found - even + 1).mean() < 8
    one_by_one = [growth.waiting(sequence, 0) for sequence in sequences.tolist()]
    assert sorted(one_by_one) == found.tolist()
