"""Plans and traces of real runs of the planner and the scheduler, without a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.costs import Machine
from shoal.engine.trace import IterationTrace
from shoal.planner import Plan, make_plan
from shoal.scheduler import BlockPool, Scheduler
from shoal.types import (
    Int64Array,
    PhaseSeconds,
    RequestCounts,
    RequestTable,
    RunSummary,
    TokenCounts,
)
from tests.helpers.machines import machine
from tests.helpers.planner_jobs import Job

BLOCK_SIZE = 4


@dataclass
class Ran:
    table: RequestTable
    plan: Plan
    trace: IterationTrace
    machine: Machine

    @property
    def prompt_lengths(self) -> Int64Array:
        return self.table.lengths


def run(job: Job, token_budget: int = 64, num_blocks: int = 1000) -> Ran:
    """Every sequence generates its limit of `job.max_new` tokens."""
    table = job.table
    on = machine(budget=token_budget, blocks=num_blocks, block_size=BLOCK_SIZE)
    plan = make_plan(table, machine=on)
    pool, trace = BlockPool(on.num_blocks, on.block_size), IterationTrace()
    scheduler = Scheduler(table, plan, pool, token_budget)
    while (batch := scheduler.step()) is not None:
        finished = batch.sample_positions + 1 == job.max_new
        scheduler.commit(batch, np.zeros(len(finished), dtype=np.int32), finished)
        trace.add(batch, len(trace) * 0.1, scheduler.num_running, pool.used_blocks)
    return Ran(table, plan, trace, on)


def tickets() -> Job:
    """Three companies, two policies each, ten tickets each."""
    words = [
        [10 + company] * 100 + [20 + policy] * 80 + [30 + ticket] * (5 + ticket)
        for company in range(3)
        for policy in range(2)
        for ticket in range(10)
    ]
    return Job(words, expected=[8] * len(words), max_new=8)


SUMMARY = RunSummary(
    requests=RequestCounts(total=1_320, succeeded=1_318, failed=2),
    tokens=TokenCounts(
        prompt=171_333, prompt_computed=20_123, prompt_saved=151_210, generated=12_345
    ),
    seconds=PhaseSeconds(plan=0.4, load=0.9, run=11.0, total=192.4),
    throughput=1_122.3,
    peak_kv_bytes=123_456_789,
    kv_peak_bytes_forecast=130_000_000,
    iterations=1_234,
    preemptions=0,
    mean_tokens_per_iteration=138.72,
)
