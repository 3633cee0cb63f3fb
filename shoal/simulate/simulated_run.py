"""A whole run without a model: the scheduler that drives the engine, driving a clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Machine
from shoal.planner import Plan, divided
from shoal.scheduler import AdapterSlots, BlockPool, Scheduler, state_split
from shoal.simulate.clock import batch_time
from shoal.types import Int64Array, RequestTable

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedRun:
    """What a run would do, iteration by iteration.

    Attributes:
        tokens: int64 [I], tokens that each iteration runs through the model.
        durations: float64 [I], seconds that each takes.
        compute, memory: float64 [I], what the arithmetic alone, and the reading of weights and KV
            alone, would take at full rate.
        preemptions: see `SchedulerStats`.
        prompt_tokens_computed, generated_tokens: of the whole run.
        peak_blocks: most KV blocks in use at once, in the first group of layers.
    """

    tokens: Int64Array
    durations: FloatArray
    compute: FloatArray
    memory: FloatArray
    preemptions: int
    prompt_tokens_computed: int
    generated_tokens: int
    peak_blocks: int

    @property
    def seconds(self) -> float:
        """The makespan."""
        return float(self.durations.sum())

    @property
    def compute_seconds(self) -> float:
        """All arithmetic at full rate."""
        return float(self.compute.sum())

    @property
    def memory_seconds(self) -> float:
        """All reading at full rate."""
        return float(self.memory.sum())

    @property
    def iterations(self) -> int:
        """How many iterations the run takes."""
        return len(self.tokens)


def simulate(
    table: RequestTable, plan: Plan, machine: Machine, true_lengths: Int64Array | None = None
) -> SimulatedRun:
    """Run a plan against a clock.

    Args:
        true_lengths: int64 [N], tokens that each choice of a request will generate, from 1 to
            its `max_new_tokens`; the scheduler does not know. None: what is expected.
    """
    lengths = table.expected_new_tokens if true_lengths is None else true_lengths
    ends = lengths[plan.sequence_request]
    split = state_split(plan, table, machine)
    counts = divided(plan, table, machine) if split is None else [split.blocks]
    pools = [
        BlockPool(blocks, machine.block_size, group.window)
        for blocks, group in zip(counts, machine.memory, strict=True)
    ]
    states = None if split is None else split.slots()
    adapters = AdapterSlots.of(table, plan, machine)
    scheduler = Scheduler(
        table, plan, pools, machine.token_budget, states=states, adapters=adapters
    )
    tokens: list[int] = []
    times: list[tuple[float, float, float]] = []
    while (batch := scheduler.step()) is not None:
        time = batch_time(batch, machine.costs, machine.memory)
        tokens.append(batch.num_tokens)
        times.append((time.seconds, time.compute, time.memory))
        sampled = batch.sample_sequences
        finished = batch.sample_positions + 1 >= ends[sampled]
        scheduler.commit(batch, np.zeros(len(sampled), dtype=np.int32), finished)
    stats = scheduler.stats
    columns = np.array(times, dtype=np.float64).reshape(-1, 3).T
    return SimulatedRun(
        tokens=np.array(tokens, dtype=np.int64),
        durations=columns[0],
        compute=columns[1],
        memory=columns[2],
        preemptions=stats.preemptions,
        prompt_tokens_computed=stats.prompt_tokens_computed,
        generated_tokens=stats.generated_tokens,
        peak_blocks=scheduler.pool.peak_blocks,
    )
