"""What a workload takes at least, and what a policy may be expected to take."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.gpu_parts.ceilings import Ceilings
from benchmarks.models import ModelShape
from benchmarks.roofline import count_flops, count_work
from benchmarks.workloads import Workload
from shoal.costs import Costs, Machine, Rates
from shoal.machine.model_costs import model_costs
from shoal.model.description import ModelDescription
from shoal.planner import make_plan
from shoal.simulate.bound import lower_bound
from shoal.types import RequestTable

FIRST_PACE = 2.0
"""Seconds per second of the floor, where nothing was run yet."""


@dataclass(frozen=True)
class Floor:
    """Seconds at the measured ceilings.

    Attributes:
        compute: the arithmetic, each distinct prompt token once, at the rate of large products.
        memory: reading the weights in the fewest iterations there can be, and KV: a shared
            segment's once per iteration, at the rate of a large copy.
    """

    compute: float
    memory: float

    @property
    def seconds(self) -> float:
        """The larger: no schedule takes less."""
        return max(self.compute, self.memory)


def ceiling_costs(description: ModelDescription, ceilings: Ceilings) -> Costs:
    """The model's work at the ceilings, without any overhead."""
    rates = Rates(
        flops_per_second=ceilings.flops_per_second,
        bytes_per_second=ceilings.copy_bytes_per_second,
    )
    return model_costs(description, rates)


def floor_of(workload: Workload, table: RequestTable, shape: ModelShape, machine: Machine) -> Floor:
    """The floor of a workload on a machine whose segments cost nothing."""
    memory = lower_bound(table, make_plan(table), machine).memory
    flops = count_flops(count_work(workload), shape).total
    return Floor(flops / machine.costs.flops_per_second, memory)


def private_reads(workload: Workload, costs: Costs) -> float:
    """Seconds of reading KV once per request and iteration, as attention per request does."""
    tokens = sum(
        workload.n * (output * len(prompt) + output * (output - 1) // 2)
        for prompt, output in zip(workload.prompts, workload.outputs, strict=True)
    )
    return tokens * costs.kv_bytes / costs.bytes_per_second


class Paces:
    """How fast each policy has been, against what its work takes at the ceilings."""

    def __init__(self) -> None:
        self._pace: dict[str, float] = {}

    def expect(self, policy: str, ideal_seconds: float) -> float:
        """Seconds expected of a run whose work takes `ideal_seconds`."""
        known = self._pace.values()
        return ideal_seconds * self._pace.get(policy, max([FIRST_PACE, *known]))

    def learn(self, policy: str, ideal_seconds: float, seconds: float) -> None:
        """A run took `seconds`."""
        self._pace[policy] = seconds / max(ideal_seconds, 1e-9)
