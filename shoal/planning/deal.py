"""A planned job dealt out: who gets which requests, and what each will compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.planner.rearrange import restricted
from shoal.planning.split import divide
from shoal.simulate import part_seconds
from shoal.types import BoolArray, Int64Array, RequestTable


@dataclass(frozen=True, eq=False)
class Dealt:
    """Requests for one device.

    Attributes:
        requests: int64 [R], ascending; there may be none.
        plan: of these requests, about as the device will plan them.
        seconds: predicted.
    """

    requests: Int64Array
    plan: Plan
    seconds: float


def deal(table: RequestTable, plan: Plan, machine: Machine, devices: int) -> list[Dealt]:
    """Deal the requests of a plan out to so many devices; see `divide`.

    Args:
        plan: of the table or of a part of it; `spread`, so that parts of a family are alike.
    """
    seconds = part_seconds(table, plan, machine)
    return [
        Dealt(requests, plan_of(plan, requests, table), share.seconds)
        for share in divide(plan, seconds, devices)
        for requests in [share.requests(plan)]
    ]


def plan_of(plan: Plan, requests: Int64Array, table: RequestTable) -> Plan:
    """The plan of some of a plan's requests."""
    kept: BoolArray = np.zeros(len(table), dtype=np.bool_)
    kept[requests] = True
    return restricted(plan, kept[plan.sequence_request], table.lengths)
