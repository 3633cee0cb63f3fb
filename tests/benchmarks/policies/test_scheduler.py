"""The baselines against an executor that checks what every row sees, and by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.policies.blocks import PrefixCache
from benchmarks.policies.run import Limits, run_lru, unshared_plan
from benchmarks.policies.scheduler import LruScheduler, LruStats, waiting_sequences
from shoal.errors import InternalError
from shoal.planner import Plan
from shoal.scheduler import TokenBatch
from shoal.types import Int32Array, RequestTable
from tests.helpers.fake_executor import CheckingExecutor, answer, make_table


@dataclass
class Tokens:
    token_ids: Int32Array


@dataclass
class Result:
    sampled: Tokens


class Executor:
    """The checking executor behind the interface of the baselines' loop."""

    def __init__(self, table: RequestTable, plan: Plan, limits: Limits) -> None:
        self.lengths = table.max_new_tokens.tolist()
        slots = limits.num_blocks * limits.block_size
        self.inner = CheckingExecutor(table, plan, slots, self.lengths)
        self.block_size = limits.block_size
        self.limits = limits
        self.finished: list[int] = []
        self.batches: list[TokenBatch] = []

    def execute(self, batch: TokenBatch) -> Result:
        self.batches.append(batch)
        assert 0 < batch.num_tokens <= self.limits.token_budget
        assert len(batch.sequences) <= self.limits.max_requests
        tokens, _ = self.inner.execute(batch, self.block_size)
        return Result(Tokens(tokens))

    def finish(self, sequences: list[int]) -> None:
        self.finished += sequences


def run(
    prompts: list[list[int]],
    lengths: list[int],
    limits: Limits,
    choices: list[int] | None = None,
) -> tuple[LruStats, Executor]:
    choices = choices or [1] * len(prompts)
    table = make_table(prompts, lengths, lengths, choices)
    plan = unshared_plan(table)
    executor = Executor(table, plan, limits)
    done = run_lru(table, plan, executor, limits)
    expected = [
        answer(p, n) for p, n, c in zip(prompts, lengths, choices, strict=True) for _ in range(c)
    ]
    assert done.token_ids == expected
    assert sorted(executor.finished) == list(range(len(expected)))
    assert done.stats.generated_tokens == sum(map(len, expected))
    assert done.seconds >= done.execute_seconds > 0
    return done.stats, executor


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_row_sees_its_own_past(data: st.DataObject) -> None:
    """Any requests, any limits that hold the largest: the right answers, and no block left."""
    draw = data.draw
    stems = draw(st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=3))
    prompts, lengths, choices = [], [], []
    for _ in range(draw(st.integers(1, 9))):
        prompt = list(draw(st.sampled_from(stems)))
        prompt += draw(st.lists(st.integers(0, 2), max_size=6))
        prompts.append(prompt or [1])
        lengths.append(draw(st.integers(1, 9)))
        choices.append(draw(st.sampled_from([1, 1, 2])))
    size = draw(st.sampled_from([1, 2, 4]))
    needed = max(-(-(len(p) + n) // size) for p, n in zip(prompts, lengths, strict=True))
    limits = Limits(
        token_budget=draw(st.sampled_from([1, 3, 8, 100])),
        max_requests=draw(st.sampled_from([1, 2, 5, 100])),
        num_blocks=needed + draw(st.sampled_from([0, 1, 3, 100])),
        block_size=size,
    )
    stats, _ = run(prompts, lengths, limits, choices)
    assert stats.hit_tokens <= stats.prompt_tokens
    if stats.preemptions == 0:
        total = sum(len(p) * c for p, c in zip(prompts, choices, strict=True))
        assert stats.prompt_tokens == total
        assert stats.prefill_tokens == total - stats.hit_tokens


AMPLE = Limits(token_budget=100, max_requests=100, num_blocks=100, block_size=4)
STEM = [1, 2, 3, 4, 5, 6, 7, 8]


def test_full_blocks_of_a_prefix_are_hit_within_the_same_iteration() -> None:
    stats, executor = run([[*STEM, 9], [*STEM, 10], [*STEM, 11, 12]], [1, 1, 1], AMPLE)
    assert stats.iterations == 1
    assert stats.hit_tokens == 2 * 8
    assert stats.prompt_tokens == 9 + 9 + 10
    assert executor.batches[0].num_tokens == 9 + 1 + 2


def test_a_last_token_is_always_computed() -> None:
    """Two equal prompts of two full blocks: the second finds one, and computes the other again."""
    stats, _ = run([STEM, STEM], [1, 1], AMPLE)
    assert stats.hit_tokens == 4
    assert stats.prefill_tokens == 8 + 4


def test_a_block_that_is_not_full_is_not_hit() -> None:
    stats, _ = run([[1, 2, 3], [1, 2, 3, 4, 5]], [1, 1], AMPLE)
    assert stats.hit_tokens == 0


def test_generated_tokens_are_hit_too() -> None:
    """A prompt that is another's prompt and answer, run after it."""
    first = [3, 1, 2]
    second = first + answer(first, 6)
    limits = Limits(token_budget=100, max_requests=1, num_blocks=100, block_size=4)
    stats, _ = run([first, second], [6, 1], limits)
    assert stats.hit_tokens == 8


def test_a_prefix_is_forgotten_when_its_blocks_are_needed() -> None:
    other = [21, 22, 23, 24, 25, 26, 27, 28]
    prompts = [[*STEM, 9], [*other, 9], [*STEM, 10]]
    for blocks, hits in ((3, 0), (4, 4), (5, 8), (6, 8)):
        limits = Limits(token_budget=100, max_requests=1, num_blocks=blocks, block_size=4)
        stats, _ = run(prompts, [1, 1, 1], limits)
        assert stats.hit_tokens == hits, blocks


def test_at_most_so_many_run_at_a_time() -> None:
    limits = Limits(token_budget=100, max_requests=2, num_blocks=100, block_size=4)
    stats, executor = run([[1], [2], [3], [4]], [3, 3, 3, 3], limits)
    assert stats.iterations == 6
    assert all(len(batch.sequences) <= 2 for batch in executor.batches)


def test_decodes_come_before_the_next_chunk_of_a_prompt() -> None:
    limits = Limits(token_budget=4, max_requests=10, num_blocks=100, block_size=4)
    _, executor = run([[1, 2], [3, 4, 5, 6, 7, 8]], [4, 1], limits)
    counts = [batch.chunks.count.tolist() for batch in executor.batches]
    assert counts == [[2, 2], [1, 3], [1, 1], [1]]
    assert [batch.num_decodes for batch in executor.batches] == [0, 1, 1, 1]


def test_the_sequence_admitted_last_is_preempted_and_computed_again() -> None:
    limits = Limits(token_budget=100, max_requests=10, num_blocks=4, block_size=2)
    stats, executor = run([[1, 2, 3], [4, 5, 6]], [4, 4], limits)
    assert stats.preemptions == 1
    rows = [batch.chunks.slots.tolist() for batch in executor.batches]
    assert rows == [[0, 1], [0, 1], [0], [0], [1], [1]]
    again = executor.batches[4]
    assert again.chunks.first.tolist() == [2]  # its first block was still there
    assert again.num_tokens == 3
    assert stats.hit_tokens == 2


def test_who_was_preempted_waits_first_in_line() -> None:
    limits = Limits(token_budget=100, max_requests=2, num_blocks=4, block_size=2)
    _, executor = run([[1, 2, 3], [4, 5, 6], [7]], [4, 4, 1], limits)
    rows = [batch.chunks.slots.tolist() for batch in executor.batches]
    assert rows[:5] == [[0, 1], [0, 1], [0], [0], [1, 2]]


def test_nobody_overtakes_the_first_that_waits() -> None:
    """The second prompt does not fit beside the first; the third would."""
    limits = Limits(token_budget=100, max_requests=10, num_blocks=4, block_size=2)
    _, executor = run([[1, 2, 3, 4], [5] * 6, [7]], [2, 1, 1], limits)
    assert [batch.chunks.slots.tolist() for batch in executor.batches[:3]] == [[0], [0], [1, 2]]


def test_a_sequence_too_large_for_the_pool_is_an_error() -> None:
    table = make_table([[1, 2, 3]], [1], [1], [1])
    plan = unshared_plan(table)
    scheduler = LruScheduler(waiting_sequences(table, plan, 2), PrefixCache(1, 2), 10)
    with pytest.raises(InternalError, match="does not fit 1 KV blocks"):
        scheduler.step()


def test_an_end_of_sequence_ends_an_answer() -> None:
    table = make_table([[1, 2, 3]], [8], [8], [1])
    plan = unshared_plan(table)
    executor = Executor(table, plan, AMPLE)
    whole = answer([1, 2, 3], 8)
    done = run_lru(table, plan, executor, AMPLE, eos_token_ids=[whole[2]])
    assert done.token_ids == [whole[: whole.index(whole[2]) + 1]]


def test_the_loop_asks_whether_to_go_on() -> None:
    class EnoughError(Exception):
        pass

    def enough() -> None:
        raise EnoughError

    table = make_table([[1, 2, 3]], [8], [8], [1])
    plan = unshared_plan(table)
    with pytest.raises(EnoughError):
        run_lru(table, plan, Executor(table, plan, AMPLE), AMPLE, check=enough)


def test_the_plan_of_a_baseline_keeps_the_order_and_shares_nothing() -> None:
    table = make_table([[1, 2], [1, 2], [1]], [1, 1, 1], [1, 1, 1], [1, 3, 2])
    plan = unshared_plan(table)
    assert plan.num_segments == 0
    assert plan.sequence_request.tolist() == [0, 1, 1, 1, 2, 2]
    assert plan.sequence_choice.tolist() == [0, 0, 1, 2, 0, 1]
    assert np.array_equal(plan.sequence_segment, np.full(6, -1))
