"""Prompts that are scored: each row once for all its users, whatever happens in between.

The rows of every batch are read back by `CheckingExecutor`, and say a number that depends on all
the tokens before and on the target. So a row that scores the wrong token, or for the wrong prompt,
or a score that is put together wrongly, cannot go unnoticed.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Sharing
from shoal.engine.prompt_scores import ScoreStore
from shoal.planner import Plan, make_plan
from shoal.sampling.results import PromptScores
from shoal.scheduler import BlockPool, Launched, Scheduler, ScoredRange, TokenBatch
from shoal.types import BoolArray, Int32Array, LogprobColumns, RequestParams
from tests.helpers.fake_executor import CheckingExecutor, answer
from tests.helpers.machines import machine
from tests.helpers.request_tables import table as make_table


def said(context: list[int], target: int) -> float:
    return float(zlib.crc32(np.array([*context, target], dtype=np.int32).tobytes()) % 4096)


def likeliest(context: list[int], num: int) -> list[int]:
    return [zlib.crc32(bytes([rank, len(context), context[-1]])) % 4096 for rank in range(num)]


class ScoringExecutor(CheckingExecutor):
    """Scores what a batch asks for."""

    def scores(self, batch: TokenBatch, block_size: int) -> list[PromptScores]:
        return [self._scored(batch, each, block_size) for each in batch.scored]

    def _scored(self, batch: TokenBatch, asked: ScoredRange, block_size: int) -> PromptScores:
        begin = batch.first_scored + asked.row
        rows = batch.logit_rows[begin : begin + asked.num_rows].tolist()
        assert len(rows) == asked.num_rows > 0
        contexts = [self.context(batch, row, block_size) for row in rows]
        targets = [*asked.targets.tolist(), *asked.children[:1].tolist()]
        values = [said(c, t) for c, t in zip(contexts, targets, strict=True)]
        ids = [likeliest(context, asked.num_best) for context in contexts]
        columns = LogprobColumns(
            np.array(values, dtype=np.float32),
            np.array(values, dtype=np.int32),
            np.array(ids, dtype=np.int32).reshape(len(rows), -1),
            np.array(ids, dtype=np.float32).reshape(len(rows), -1),
        )
        of_children = [said(contexts[-1], child) for child in asked.children.tolist()]
        return PromptScores(
            asked.shared,
            asked.owner,
            asked.first,
            columns,
            asked.children,
            np.array(of_children, dtype=np.float32),
            np.array(of_children, dtype=np.int32),
        )


@dataclass
class Job:
    prompts: list[list[int]]
    params: list[RequestParams]
    limits: list[int]
    sharing: Sharing
    budget: int
    block_size: int
    spare_blocks: int
    scored_rows: int | None


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    stems = draw(st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=4))
    prompts, params, limits = [], [], []
    for _ in range(draw(st.integers(1, 10))):
        stem = list(draw(st.sampled_from(stems))) + draw(st.sampled_from([[], *stems]))
        prompt = stem + draw(st.lists(st.integers(0, 2), max_size=3))
        prompts.append(prompt or [1])
        limits.append(draw(st.sampled_from([0, 0, 1, 1, 5])))
        values: dict[str, int] = {
            "n": draw(st.sampled_from([1, 1, 1, 2])),
            "max_tokens": limits[-1],
        }
        if draw(st.sampled_from([True, True, True, False])):
            values["prompt_logprobs"] = draw(st.integers(0, 3))
            if draw(st.booleans()):
                values["prompt_logprob_start"] = draw(st.integers(0, len(prompts[-1]) + 1))
        params.append(RequestParams(**values))
    return Job(
        prompts,
        params,
        limits,
        sharing=draw(st.sampled_from([Sharing.forest, Sharing.forest, *Sharing])),
        budget=draw(st.sampled_from([1, 2, 7, 16, 33, 1000])),
        block_size=draw(st.sampled_from([1, 4, 16])),
        spare_blocks=draw(st.sampled_from([0, 0, 1, 3, 20, 1000])),
        scored_rows=draw(st.sampled_from([None, None, 1, 3])),
    )


@dataclass
class Trouble:
    """Batches that fail, by number, at their launch or later; and whom a batch's launch cancels."""

    launch: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)
    cancels: dict[int, int] = field(default_factory=dict)


class ScoringDriver:
    """Runs a job with one or two batches under way, and checks every score."""

    def __init__(self, job: Job, trouble: Trouble | None = None, ahead: bool = False) -> None:
        self.job, self.trouble, self.under_way = job, trouble or Trouble(), 2 if ahead else 1
        requests = zip(job.prompts, job.params, [max(1, n) for n in job.limits], strict=True)
        self.table = make_table(list(requests))
        most = max(
            -(-(len(p) + max(limit, 1) - 1) // job.block_size)
            for p, limit in zip(job.prompts, job.limits, strict=True)
        )
        self.pool = BlockPool(most + job.spare_blocks, job.block_size)
        on = machine(blocks=self.pool.num_blocks, block_size=job.block_size)
        self.plan: Plan = make_plan(self.table, sharing=job.sharing, machine=on)
        self.scheduler = Scheduler(
            self.table, self.plan, self.pool, job.budget, scored_rows=job.scored_rows
        )
        slots = self.pool.num_blocks * job.block_size
        self.executor = ScoringExecutor(self.table, self.plan, slots, self.table.max_new_tokens)
        self.store = ScoreStore(self.table, self.plan)
        self.flights: deque[tuple[Launched, Int32Array, BoolArray, list[PromptScores], int]]
        self.flights = deque()
        self.begun: set[int] = set()
        self.cancelled: set[int] = set()
        self.times: Counter[tuple[bool, int, int]] = Counter()
        self.launched = 0

    def run(self) -> None:
        for _ in range(30_000):
            batch = self.scheduler.step(self.flights[0][0] if self.flights else None)
            if batch is None and not self.flights:
                break
            if batch is not None and self.launch(batch) and len(self.flights) < self.under_way:
                continue
            if self.flights:
                self.settle()
        else:
            pytest.fail("the job does not end")
        assert self.scheduler.done
        assert self.pool.used_blocks == 0
        assert self.executor.retained == {}
        assert len(self.store) == 0, "scores are kept for nobody"
        assert self.begun | self.cancelled == set(range(self.plan.num_sequences))

    def launch(self, batch: TokenBatch) -> bool:
        number, self.launched = self.launched, self.launched + 1
        assert sum(each.num_rows for each in batch.scored) <= (self.job.scored_rows or 10**9)
        if number in self.trouble.launch:
            while self.flights:
                self.settle()
            self.scheduler.retry(batch)
            return False
        tokens, finished = self.executor.launch(batch, self.job.block_size)
        scores = self.executor.scores(batch, self.job.block_size)
        self.flights.append((self.scheduler.advance(batch), tokens, finished, scores, number))
        victim = self.trouble.cancels.get(number)
        if victim is not None and victim < self.plan.num_sequences:
            self.scheduler.cancel(victim)
            self.store.drop(victim)
            self.cancelled.add(victim)
        return True

    def settle(self) -> None:
        launched, tokens, finished, scores, number = self.flights.popleft()
        batch = launched.batch
        if number in self.trouble.late:
            failed = [launched, *(later for later, *_ in self.flights)]
            for each in reversed(failed):
                self.executor.spoil(each.batch)
            self.flights.clear()
            self.scheduler.retry(batch, failed)
            return
        self.executor.release(batch)
        self.store.add(scores)
        for part in scores:
            rows = range(part.first, part.first + len(part.rows))
            self.times.update((part.shared, part.owner, row) for row in rows)
        sampled = batch.sample_sequences[self.scheduler.wanted(launched)].tolist()
        for sequence in [*sampled, *self.scheduler.ended(launched).tolist()]:
            if sequence not in self.begun:
                self.check(sequence)
                self.begun.add(sequence)
        self.scheduler.settle(launched, tokens, finished)

    def check(self, sequence: int) -> None:
        request = int(self.plan.sequence_request[sequence])
        prompt, params = self.job.prompts[request], self.job.params[request]
        found = self.store.of(sequence)
        self.store.drop(sequence)
        assert (found is None) == (params.prompt_logprobs is None)
        if found is None or params.prompt_logprobs is None:
            return
        assert [entry.token_id for entry in found] == prompt
        start = max(1, params.prompt_logprob_start or 0)
        for position, entry in enumerate(found):
            if position < start:
                assert entry.logprob is entry.rank is None
                continue
            context = prompt[:position]
            assert entry.logprob == entry.rank == said(context, prompt[position])
            expected = likeliest(context, params.prompt_logprobs)
            assert [token for token, _ in entry.top] == expected


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(jobs(), st.booleans())
def test_every_prompt_is_scored_and_every_row_once(job: Job, ahead: bool) -> None:
    driver = ScoringDriver(job, ahead=ahead)
    driver.run()
    assert set(driver.times.values()) <= {1}, "not again where it is computed again"
    stats, plan = driver.scheduler.stats, driver.plan
    once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
    assert once == plan.computed_prompt_tokens
    for sequence, generated in driver.executor.generated.items():
        request = int(plan.sequence_request[sequence])
        assert generated == answer(job.prompts[request], job.limits[request])


@pytest.mark.long
@settings(max_examples=300, deadline=None)
@given(
    jobs(),
    st.booleans(),
    st.sets(st.integers(0, 25), max_size=4),
    st.sets(st.integers(0, 25), max_size=4),
    st.dictionaries(st.integers(0, 12), st.integers(0, 12), max_size=3),
)
def test_failures_and_cancellations_lose_no_score(
    job: Job, ahead: bool, launch: set[int], late: set[int], cancels: dict[int, int]
) -> None:
    ScoringDriver(job, Trouble(launch, late, cancels), ahead).run()


def alike(prompts: list[list[int]], **params: int) -> ScoringDriver:
    """All of these asked for in the same way, in ample memory."""
    each = RequestParams(**params)
    limits = [each.max_tokens or 0] * len(prompts)
    job = Job(prompts, [each] * len(prompts), limits, Sharing.forest, 1000, 16, 1000, None)
    return ScoringDriver(job)


def test_choices_of_one_token_take_no_row_and_one_batch() -> None:
    context = [1, 2] * 40
    driver = alike([[*context, t] for t in range(50)], max_tokens=0, prompt_logprobs=1)
    batch = driver.scheduler.step()
    assert batch is not None
    assert batch.num_tokens == 80
    assert len(batch.ends) == 50
    (scored,) = batch.scored
    assert scored.children.tolist() == list(range(50))
    assert driver.pool.used_blocks == 5
    fresh = alike([[*context, t] for t in range(50)], max_tokens=0, prompt_logprobs=1)
    fresh.run()
    assert fresh.scheduler.stats.iterations == 1
    assert fresh.pool.peak_blocks == 5


def test_rows_nobody_asks_for_take_no_logits() -> None:
    prompts = [[*[1, 2] * 40, *[3 + t, 4] * 5] for t in range(3)]
    driver = alike(prompts, max_tokens=0, prompt_logprobs=0, prompt_logprob_start=88)
    batch = driver.scheduler.step()
    assert batch is not None
    assert batch.num_tokens == 80 + 3 * 9
    assert len(batch.logit_rows) == 3 * 2
    driver = alike(prompts, max_tokens=1, prompt_logprobs=0, prompt_logprob_start=80)
    batch = driver.scheduler.step()
    assert batch is not None
    assert len(batch.logit_rows) == 1 + 3 * 9 + 3, "first tokens, their own, answers"


def test_nothing_to_score_is_nothing_to_compute() -> None:
    driver = alike([[1, 2, 3], [4]], max_tokens=0)
    driver.run()
    assert driver.scheduler.stats.tokens == 0
    driver = alike([[5], [5]], max_tokens=0, prompt_logprobs=2)
    driver.run()
    assert driver.scheduler.stats.tokens == 0
