"""How a job is planned: what is shared, in which order, with which pilot, on which device."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.config import EngineOptions, Order
from shoal.costs import Machine
from shoal.planner import Forest, Plan, expected_peak_kv, make_plan, pilot_first, spread
from shoal.planning.shares import Share, make_shares
from shoal.simulate import in_order
from shoal.types import PlanFigures, RequestTable


@dataclass(frozen=True, eq=False)
class RunPlan:
    """What one device runs.

    Attributes:
        plan: as the run begins: in the order chosen, the pilot first.
        unpiloted: the same without a pilot; what lengths are learnt by (`LengthModel`).
        num_pilots: sequences of the pilot; 0: there is none.
        order_seconds: predicted for each order; empty unless orders were compared.
        kv_peak_tokens: KV tokens expected at the fullest moment.
        machine: what it is made for.
    """

    plan: Plan
    unpiloted: Plan
    num_pilots: int
    order_seconds: dict[Order, float]
    kv_peak_tokens: int
    machine: Machine

    @property
    def kv_peak_bytes(self) -> int:
        """KV expected at the fullest moment."""
        return self.kv_peak_tokens * int(self.machine.costs.kv_bytes)

    @property
    def figures(self) -> PlanFigures:
        """The plan in numbers."""
        plan = self.plan
        return PlanFigures(
            prompt_tokens=plan.prompt_tokens,
            computed_prompt_tokens=plan.computed_prompt_tokens,
            segments=plan.num_segments,
            pilots=self.num_pilots,
            order=plan.order.value,
            kv_peak_bytes=self.kv_peak_bytes,
            digest=plan.digest,
        )


def plan_run(
    table: RequestTable, options: EngineOptions, machine: Machine, forest: Forest | None = None
) -> RunPlan:
    """Plan a table for one device. Deterministic.

    Args:
        forest: see `make_plan`.

    Raises:
        InternalError: see `make_plan`.
    """
    plan = make_plan(table, sharing=options.sharing, machine=machine, forest=forest)
    plan, seconds = in_order(table, plan, options.order, machine)
    piloted, num_pilots = pilot_first(plan, table)
    peak = expected_peak_kv(piloted, table, machine)
    return RunPlan(piloted, plan, num_pilots, seconds, peak, machine)


@dataclass(frozen=True, eq=False)
class Division:
    """A job on several devices of one kind.

    Attributes:
        whole: the plan of the whole table, in the order `ratio`: what there is to share.
        spread: the same, in an order of which every stretch is a sample; what is cut into parts.
        shares: what each device gets at first; it plans that with `plan_run` (`run_plans`).
    """

    whole: Plan
    spread: Plan
    shares: list[Share]

    def run_plans(
        self, table: RequestTable, options: EngineOptions, machine: Machine
    ) -> list[RunPlan]:
        """The plan of each device that gets requests."""
        return [
            plan_run(table.select(share.requests), options, machine)
            for share in self.shares
            if len(share.requests)
        ]


def divide_job(
    table: RequestTable,
    options: EngineOptions,
    machine: Machine,
    devices: int,
    forest: Forest | None = None,
) -> Division:
    """Divide a table among so many devices. Deterministic.

    Args:
        machine: each of the devices.
        forest: see `make_plan`.

    Raises:
        InternalError: see `make_plan`.
    """
    whole = make_plan(table, sharing=options.sharing, machine=machine, forest=forest)
    even = spread(whole, table)
    return Division(whole, even, make_shares(table, even, machine, devices))
