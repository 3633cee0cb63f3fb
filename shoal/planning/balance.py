"""Divides a planned job among devices: by predicted seconds, prefix families kept whole."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shoal.planner import Plan
from shoal.simulate import PartSeconds, SplitPoints, Stretches
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
    _level(plan, seconds, loads)
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


class _Cutter:
    """Finds where a run of sequences is cut so that the giver keeps what it should."""

    def __init__(self, plan: Plan, seconds: PartSeconds) -> None:
        self._stretches = Stretches(plan, seconds)

    def cut(
        self, run: tuple[float, int, int], too_much: float, too_little: float, repeats: float
    ) -> tuple[tuple[float, int, int], tuple[float, int, int]] | None:
        """What is kept of a run and what goes; None: it is one request.

        Args:
            too_much, too_little: seconds from the giver's and the taker's load to the mean.
            repeats: by how much of what a cut computes again the mean gets longer, with all the
                cuts that this family still needs.
        """
        _, first, last = run
        wanted = min(too_much, too_little)
        found = self._stretches.cuts_near(first, last, wanted, 0.0)
        if not len(found.sequence):
            return None
        # A cut further away than this is no better than the nearest: see what is added up below.
        within = (2 + repeats) * float(_misses(found, too_much, too_little, repeats).min())
        found = self._stretches.cuts_near(first, last, wanted, within)
        at = int(np.argmin(_misses(found, too_much, too_little, repeats)))
        sequence = int(found.sequence[at])
        kept = (float(found.before[at]), first, sequence)
        return kept, (float(found.after[at]), sequence, last)


def _misses(
    found: SplitPoints, too_much: float, too_little: float, repeats: float
) -> npt.NDArray[np.float64]:
    """How far each cut is from what is wanted, with what it computes again, seconds [P]."""
    more = found.again * repeats
    fits = np.minimum(too_much - more + found.again, too_little + more)
    misses: npt.NDArray[np.float64] = np.abs(found.after - fits) + found.again
    return misses


def _level(plan: Plan, seconds: PartSeconds, loads: list[DeviceLoad]) -> None:
    """Bring the fullest load or the emptiest to the mean, again and again, as long as that pays."""
    cutter = _Cutter(plan, seconds)
    each = np.array([load.seconds for load in loads])
    for _ in range(_MOST_MOVES * len(loads)):
        fullest = len(each) - 1 - int(np.argmax(each[::-1]))
        giver, taker = loads[fullest], loads[int(np.argmin(each))]
        if not _move(cutter, giver, taker, float(each.mean()), len(loads)):
            return
        each[giver.device], each[taker.device] = giver.seconds, taker.seconds


def _move(cutter: _Cutter, giver: DeviceLoad, taker: DeviceLoad, mean: float, devices: int) -> bool:
    """Bring one of two loads to the mean, if that pays."""
    too_much, too_little = giver.seconds - mean, mean - taker.seconds
    if min(too_much, too_little) <= WORTH * mean or not giver.runs:
        return False
    largest = max(giver.runs)
    kept: list[tuple[float, int, int]] = []
    moved = largest
    if largest[0] > min(too_much, too_little):
        # This family needs a cut for every device it fills.
        repeats = max(1, round(giver.seconds / mean) - 1) / devices
        parts = cutter.cut(largest, too_much, too_little, repeats)
        if parts is None:
            return False
        kept, moved = [parts[0]], parts[1]
    left = giver.seconds - largest[0] + sum(run[0] for run in kept)
    taken = taker.seconds + moved[0]
    if giver.seconds - max(left, taken) <= WORTH * mean:
        return False
    giver.runs.remove(largest)
    giver.runs += kept
    taker.runs.append(moved)
    giver.seconds, taker.seconds = left, taken
    return True
