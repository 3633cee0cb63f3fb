"""A planned job divided among devices: who gets which requests, and what each will compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.planner.rearrange import restricted
from shoal.planning.balance import balance
from shoal.simulate import part_seconds
from shoal.types import BoolArray, Int64Array, RequestTable


@dataclass(frozen=True, eq=False)
class Share:
    """What one device runs.

    Attributes:
        requests: int64 [R], ascending; there may be none.
        plan: of these requests, about as the device will plan them.
        seconds: predicted.
    """

    requests: Int64Array
    plan: Plan
    seconds: float


def make_shares(table: RequestTable, plan: Plan, machine: Machine, devices: int) -> list[Share]:
    """Divide the requests of a plan among so many devices; see `balance`.

    Args:
        plan: of the table or of a part of it; `spread`, so that parts of a family are alike.
    """
    seconds = part_seconds(table, plan, machine)
    return [
        Share(requests, plan_share(plan, requests, table), load.seconds)
        for load in balance(plan, seconds, devices)
        for requests in [load.requests(plan)]
    ]


def plan_share(plan: Plan, requests: Int64Array, table: RequestTable) -> Plan:
    """The plan of some of a plan's requests."""
    kept: BoolArray = np.zeros(len(table), dtype=np.bool_)
    kept[requests] = True
    return restricted(plan, kept[plan.sequence_request], table)
