"""Time: how much is left, and how long a call takes on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

LEAD_BYTES = 512 * 2**20
"""Overwritten before each timed call: several times any cache."""
LEAD_TIMES = 10
"""How often: about a millisecond on a device of 4 TB/s, in which the host gets ahead of it, so that
what is timed is the device and not the launching."""
WARM_UP_CALLS = 3
LEAST_CALLS, MOST_CALLS = 5, 40


class OutOfTimeError(Exception):
    """The time limit has passed."""


class Deadline:
    """A point in time."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        """`seconds` from now on."""
        self._now = now
        self._end = now() + seconds

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - self._now())

    def check(self) -> None:
        """Raises `OutOfTimeError` when nothing is left."""
        if self.left == 0:
            raise OutOfTimeError

    def within(self, seconds: float) -> Deadline:
        """In `seconds`, or at this one if that is earlier."""
        return Deadline(min(seconds, self.left), self._now)


class Stopwatch(Protocol):
    """Times calls that work on one device."""

    def seconds(self, call: Callable[[], object], most: float) -> float:
        """Median seconds of a warm call; `most` seconds or so are spent on timing it."""


class HostStopwatch:
    """Times calls that return when their work is done."""

    def seconds(self, call: Callable[[], object], most: float) -> float:
        """See `Stopwatch`."""
        call()
        found: list[float] = []
        began = time.perf_counter()
        while len(found) < 3 or (sum(found) < most and len(found) < MOST_CALLS):
            before = time.perf_counter()
            call()
            found.append(time.perf_counter() - before)
            if time.perf_counter() - began > most:
                break
        return statistics.median(found)


class Event(Protocol):
    """A point in a stream's work, as `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> None:
        """Mark this point of the current stream."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to another; both have happened."""


class EventStopwatch:
    """Times asynchronous calls by events around each, every call on cold caches."""

    def __init__(
        self,
        new_event: Callable[[], Event],
        synchronize: Callable[[], None],
        lead: Callable[[], object],
    ) -> None:
        """`lead`: work for the device that clears its caches and lets the host get ahead."""
        self._new_event, self._synchronize, self._lead = new_event, synchronize, lead

    def seconds(self, call: Callable[[], object], most: float) -> float:
        """See `Stopwatch`."""
        for _ in range(WARM_UP_CALLS):
            call()
        self._synchronize()
        began = time.perf_counter()
        first = self._time(call, 1)
        spent = time.perf_counter() - began
        calls = min(MOST_CALLS, max(LEAST_CALLS, int(most / max(spent, 1e-6))))
        return statistics.median(first + self._time(call, calls - 1))

    def _time(self, call: Callable[[], object], calls: int) -> list[float]:
        pairs = [(self._new_event(), self._new_event()) for _ in range(calls)]
        for begin, end in pairs:
            self._lead()
            begin.record()
            call()
            end.record()
        self._synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]


def stopwatch(device: torch.device) -> Stopwatch:
    """The stopwatch for a device."""
    if device.type != "cuda":
        return HostStopwatch()
    lead = torch.empty(LEAD_BYTES, dtype=torch.uint8, device=device)

    def clear() -> None:
        for _ in range(LEAD_TIMES):
            lead.zero_()

    def new_event() -> Event:
        # torch leaves this class without types.
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    return EventStopwatch(new_event, lambda: torch.cuda.synchronize(device), clear)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
