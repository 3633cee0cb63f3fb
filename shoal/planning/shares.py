"""A planned job divided among devices: who gets which requests, and what each will compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.planning.balance import DeviceLoad, balance
from shoal.simulate import part_seconds
from shoal.types import Int64Array, PlanFigures, RequestTable


@dataclass(frozen=True, eq=False)
class Share:
    """What one device runs.

    Attributes:
        requests: int64 [R], ascending; there may be none.
        figures: of its plan, about as the device will make it.
        seconds: predicted.
    """

    requests: Int64Array
    figures: PlanFigures
    seconds: float


def make_shares(table: RequestTable, plan: Plan, machine: Machine, devices: int) -> list[Share]:
    """Divide the requests of a plan among so many devices; see `balance`.

    Args:
        plan: of the table; `spread`, so that parts of a family are alike.
    """
    loads = balance(plan, part_seconds(table, plan, machine), devices)
    return [
        Share(load.requests(plan), figures, load.seconds)
        for load, figures in zip(loads, _figures(table, plan, loads), strict=True)
    ]


def _figures(table: RequestTable, plan: Plan, loads: list[DeviceLoad]) -> list[PlanFigures]:
    """The plan of each load. All in one pass: a pass for each of 1,024 takes minutes."""
    devices = len(loads)
    owner = np.zeros(plan.num_sequences, dtype=np.int32)
    for load in loads:
        for _, first, last in load.runs:
            owner[first:last] = load.device
    request = plan.sequence_request
    prompt = np.bincount(owner, table.lengths[request], devices)
    computed = np.bincount(owner, table.computed_lengths[request], devices)
    device, segment, users = _users(plan, loads)
    shared = users >= 2
    device, segment, users = device[shared], segment[shared], users[shared]
    saved = np.bincount(device, (users - 1) * plan.segment_length[segment], devices)
    segments = np.bincount(device, minlength=devices)
    return [
        PlanFigures(
            prompt_tokens=int(prompt[number]),
            computed_prompt_tokens=int(computed[number] - saved[number]),
            segments=int(segments[number]),
            order=plan.order.value,
        )
        for number in range(devices)
    ]


def _users(plan: Plan, loads: list[DeviceLoad]) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Device, segment, and how many of its users the device has; where there are any."""
    runs = sorted((first, last, load.device) for load in loads for _, first, last in load.runs)
    first, last, owner = np.array(runs, dtype=np.int64).reshape(-1, 3).T
    begin = np.searchsorted(first, plan.segment_first, side="right") - 1
    counts = np.searchsorted(first, plan.segment_last, side="left") - begin
    segment = np.repeat(np.arange(plan.num_segments), counts)
    run = np.arange(len(segment)) + np.repeat(begin - (np.cumsum(counts) - counts), counts)
    users = np.minimum(plan.segment_last[segment], last[run]) - np.maximum(
        plan.segment_first[segment], first[run]
    )
    pair, index = np.unique(segment * len(loads) + owner[run], return_inverse=True)
    together = np.bincount(index.reshape(-1), users, len(pair)).astype(np.int64)
    return pair % len(loads), pair // len(loads), together
