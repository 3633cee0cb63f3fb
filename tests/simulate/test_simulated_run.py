from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.config import Order, Sharing
from shoal.costs import AttentionCost, Costs, Expanding
from shoal.planner import make_plan
from shoal.scheduler import BlockPool, Scheduler, TokenBatch
from shoal.simulate import batch_time, lower_bound, simulate
from shoal.work import SegmentWork, Window
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job, jobs
from tests.planner.test_seen_pairs import sees

BLOCK = 4
COSTS = Costs(
    flops_per_token=100.0,
    head_flops=30.0,
    attention_flops=7.0,
    weight_bytes=900.0,
    kv_bytes=40.0,
    flops_per_second=1e4,
    bytes_per_second=1e3,
    iteration_seconds=0.01,
    segment_seconds=0.003,
    use_seconds=0.0007,
)
rates = st.floats(1e2, 1e6)
costs = st.builds(
    lambda flops, memory, overhead: dataclasses.replace(
        COSTS, flops_per_second=flops, bytes_per_second=memory, iteration_seconds=overhead
    ),
    rates,
    rates,
    st.sampled_from([0.0, 0.01]),
)
FULL = AttentionCost(kv_bytes=30.0, pair_flops=5.0)
LATENT = AttentionCost(kv_bytes=10.0, pair_flops=2.0, expanding=Expanding(0.5, 20.0))


def windowed(tokens: int, chunked: bool) -> AttentionCost:
    return AttentionCost(kv_bytes=10.0, pair_flops=2.0, window=Window(tokens, chunked))


some_window = st.builds(windowed, st.integers(1, 12), st.booleans())
kinds = (
    st.just(()) | st.tuples(some_window) | st.tuples(st.sampled_from([FULL, LATENT]), some_window)
)


def with_kinds(costs: Costs, kinds: tuple[AttentionCost, ...]) -> Costs:
    if not kinds:
        return costs
    kv_bytes = sum(kind.kv_bytes for kind in kinds)
    return dataclasses.replace(costs, kinds=kinds, kv_bytes=kv_bytes)


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(
    jobs(max_runs=7),
    st.sampled_from(Sharing),
    st.sampled_from(Order),
    costs,
    kinds,
    st.booleans(),
    st.integers(1, 40),
    st.integers(0, 30),
    st.data(),
)
def test_a_simulated_run_is_a_run(
    job: Job,
    sharing: Sharing,
    order: Order,
    costs: Costs,
    kinds: tuple[AttentionCost, ...],
    grouped: bool,
    budget: int,
    spare: int,
    data: st.DataObject,
) -> None:
    table = job.table
    longest = int(table.lengths.max()) + job.max_new
    blocks = -(-longest // BLOCK) + spare
    costs = with_kinds(costs, kinds)
    on = machine(costs, budget=budget, blocks=blocks, block_size=BLOCK, grouped=grouped)
    plan = make_plan(table, sharing=sharing, order=order, machine=on)
    size = len(table)
    lengths = np.array(data.draw(st.lists(st.integers(1, 8), min_size=size, max_size=size)))
    run = simulate(table, plan, on, lengths)
    outputs = lengths[plan.sequence_request]
    assert run.generated_tokens == outputs.sum()
    if len(on.memory) == 1:
        assert run.peak_blocks <= blocks
    assert run.tokens.max() <= budget
    if run.preemptions == 0:
        assert run.prompt_tokens_computed == plan.computed_prompt_tokens
        assert run.tokens.sum() == plan.computed_prompt_tokens + (outputs - 1).sum()
    assert np.all(np.maximum(run.compute, run.memory) <= run.durations * (1 + 1e-9))
    bound = lower_bound(table, plan, on, lengths)
    assert bound.iterations <= run.iterations
    assert bound.compute <= run.compute_seconds * (1 + 1e-9)
    assert bound.memory <= run.memory_seconds * (1 + 1e-9)
    assert bound.seconds <= run.seconds * (1 + 1e-9)


def test_what_is_expected_is_simulated_without_true_lengths() -> None:
    job = Job([[1, 2, 3], [1, 2, 4]], expected=[3, 5])
    run = simulate(job.table, make_plan(job.table), machine(COSTS, budget=100, blocks=100))
    assert run.generated_tokens == 8
    assert run.iterations == 5
    assert run.tokens.tolist() == [4, 2, 2, 1, 1]


def test_the_bound_of_one_request_that_fills_its_budget_is_exact() -> None:
    job = Job([[1, 2, 3, 4, 5, 6, 7, 8]], expected=[1])
    costs = dataclasses.replace(COSTS, kv_bytes=0.0, weight_bytes=0.0)
    plan = make_plan(job.table)
    on = machine(costs, budget=8, blocks=100)
    run = simulate(job.table, plan, on)
    bound = lower_bound(job.table, plan, on)
    assert bound.seconds == pytest.approx(run.seconds)


# The clock.


def batches(job: Job, budget: int, windows: list[Window | None]) -> list[TokenBatch]:
    table = job.table
    plan = make_plan(table)
    pools = [BlockPool(1000, BLOCK, window) for window in windows]
    scheduler = Scheduler(table, plan, pools, budget)
    found = []
    while (batch := scheduler.step()) is not None:
        found.append(batch)
        sampled = batch.sample_sequences
        ends = table.expected_new_tokens[plan.sequence_request[sampled]]
        finished = batch.sample_positions + 1 >= ends
        scheduler.commit(batch, np.zeros(len(sampled), dtype=np.int32), finished)
    return found


def slow_seconds(batch: TokenBatch, costs: Costs) -> float:
    """The time of a batch by loops over items, their rows and their tokens."""
    work = batch.attention
    attention = overhead = 0.0
    for number, kind in enumerate(costs.attention):
        same = batch.groups[number if len(batch.groups) > 1 else 0].attention
        attention += sum(item_seconds(same, item, kind, costs) for item in range(len(same)))
    for item in range(len(work)):
        first, last = int(work.row_first[item]), int(work.row_last[item])
        if not work.causal[item]:
            owners = {
                chunk
                for chunk in range(len(batch.chunks))
                if first <= batch.chunks.row_starts[chunk] < last
            }
            overhead += costs.segment_seconds + costs.use_seconds * len(owners)
    linear = max(
        batch.num_tokens * costs.flops_per_token / costs.flops_per_second,
        costs.weight_bytes / costs.bytes_per_second if batch.num_tokens else 0.0,
    )
    head = len(batch.logit_rows) * costs.head_flops / costs.flops_per_second
    return linear + attention + head + overhead + costs.iteration_seconds


def item_seconds(work: SegmentWork, item: int, kind: AttentionCost, costs: Costs) -> float:
    first, last = int(work.row_first[item]), int(work.row_last[item])
    pairs, read = 0, set()
    for row in range(first, last):
        kv = int(work.kv_tokens[item]) - (last - 1 - row if work.causal[item] else 0)
        for token in range(kv):
            if sees(kind.window, int(work.positions[row]), int(work.starts[item]) + token):
                pairs += 1
                read.add(token)
    flops = pairs * kind.pair_flops
    if kind.expanding is not None:
        made = len(read) * kind.expanding.token_flops
        flops = min(flops, pairs * kind.expanding.pair_flops + made)
    bytes_ = len(read) * kind.kv_bytes
    return max(flops / costs.flops_per_second, bytes_ / costs.bytes_per_second)


@settings(deadline=None, max_examples=60)
@given(jobs(max_runs=7), costs, kinds, st.booleans(), st.integers(1, 40))
def test_the_clock_is_the_sum_over_items_rows_and_tokens(
    job: Job, costs: Costs, kinds: tuple[AttentionCost, ...], grouped: bool, budget: int
) -> None:
    costs = with_kinds(costs, kinds)
    windows = [kind.window for kind in costs.attention] if grouped else [None]
    for batch in batches(job, budget, windows):
        time = batch_time(batch, costs)
        assert time.seconds == pytest.approx(slow_seconds(batch, costs))
        assert max(time.compute, time.memory) <= time.seconds * (1 + 1e-9)
