"""Divides a planned job among devices: by predicted seconds, prefix families kept whole."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np

from shoal.planner import Plan
from shoal.simulate import PartSeconds, cuts
from shoal.types import Int64Array

BUNDLES = 256
"""Parts that the groups of a device are bundled into at most, about, before they are balanced."""
WORTH = 0.02
"""A family is only cut if the busier device then ends earlier by this share of a fair load."""
_MOST_MOVES = 8
"""Per device; one for each is enough for families of any size."""


@dataclass(order=True)
class DeviceLoad:
    """What one device gets: runs [first, last) of the plan's sequences, with their seconds."""

    seconds: float
    device: int
    runs: list[tuple[float, int, int]] = field(default_factory=list, compare=False)

    def add(self, seconds: float, first: int, last: int) -> None:
        """Take one more run of sequences."""
        self.runs.append((seconds, first, last))
        self.seconds += seconds

    def requests(self, plan: Plan) -> Int64Array:
        """The requests of the load, ascending."""
        parts = [plan.sequence_request[first:last] for _, first, last in self.runs]
        if not parts:
            return np.zeros(0, dtype=np.int64)
        return np.unique(np.concatenate(parts)).astype(np.int64)


def balance(plan: Plan, seconds: PartSeconds, devices: int) -> list[DeviceLoad]:
    """A load for each device, together every sequence once, requests whole. Deterministic.

    Groups are dealt out whole, the longest first, each to the device with the least (LPT, Graham
    1969: at most 4/3 - 1/(3·devices) times the best there is). Where that leaves a device with more
    than its part, a family is cut and its prefix computed on both sides, if the prediction says
    that it pays: one prompt that all requests begin with is one family.
    """
    loads = [DeviceLoad(0.0, device) for device in range(devices)]
    heap = list(loads)
    for took, first, last in sorted(_units(plan, seconds, devices), key=lambda u: (-u[0], u[1])):
        load = heapq.heappop(heap)
        load.add(took, first, last)
        heapq.heappush(heap, load)
    for _ in range(_MOST_MOVES * devices):
        if not _move(plan, seconds, loads):
            break
    return loads


def _units(plan: Plan, seconds: PartSeconds, devices: int) -> list[tuple[float, int, int]]:
    """(seconds, first, last) of the groups; small ones that follow each other are bundled."""
    bounds = plan.groups.astype(np.int64)
    if len(bounds) < 2:
        return []
    # Without sharing the choices of a request are groups; a request is never divided.
    bounds = bounds[np.append(plan.sequence_choice[bounds[:-1]] == 0, True)]
    took = np.add.reduceat(seconds.sequence, bounds[:-1])
    of_segment = np.searchsorted(bounds, plan.segment_first, side="right") - 1
    np.add.at(took, of_segment, seconds.segment)
    before = np.cumsum(took) - took
    target = took.sum() / (BUNDLES * devices)
    bundle = np.floor(before / target) if target > 0 else np.arange(len(took))
    starts = np.diff(bundle, prepend=-1) != 0
    heads = np.flatnonzero(starts)
    total = np.add.reduceat(took, heads)
    edges = np.append(bounds[:-1][heads], bounds[-1])
    return list(zip(total.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _move(plan: Plan, seconds: PartSeconds, loads: list[DeviceLoad]) -> bool:
    """Bring the fullest load or the emptiest to the mean, if that pays."""
    giver, taker = max(loads), min(loads)
    mean = sum(load.seconds for load in loads) / len(loads)
    wanted = min(giver.seconds - mean, mean - taker.seconds)
    if wanted <= WORTH * mean or not giver.runs:
        return False
    largest = max(giver.runs)
    took, first, last = largest
    if took <= wanted:
        kept, moved = [], [largest]
    else:
        found = cuts(plan, seconds, first, last)
        if not len(found.sequence):
            return False
        # Each cut makes the mean longer, and this family needs one for every device it fills.
        more = found.again * max(1, round(giver.seconds / mean) - 1) / len(loads)
        fits = np.minimum(giver.seconds - mean - more + found.again, mean + more - taker.seconds)
        at = int(np.argmin(np.abs(found.after - fits) + found.again))
        sequence = int(found.sequence[at])
        kept = [(float(found.before[at]), first, sequence)]
        moved = [(float(found.after[at]), sequence, last)]
    left = giver.seconds - took + sum(run[0] for run in kept)
    taken = taker.seconds + sum(run[0] for run in moved)
    if giver.seconds - max(left, taken) <= WORTH * mean:
        return False
    giver.runs.remove(largest)
    giver.runs += kept
    taker.runs += moved
    giver.seconds, taker.seconds = left, taken
    return True
