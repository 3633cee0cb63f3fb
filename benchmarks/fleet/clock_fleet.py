"""A `Transport` of simulated devices, for as many of them and as many requests as one likes.

Who gets what, when and again is decided by the real `DeviceRun`, and what a device gives up by the
real `release_from`. A device works through its plan at a rate. A request ends when the work up to
it is done, and not before its answer alone could be: `ANSWER_SECONDS` after it has begun.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from itertools import count

import numpy as np
import numpy.typing as npt

from benchmarks.fleet.fleet_jobs import MACHINE, PROMPT, FleetJob
from shoal.config import EngineOptions
from shoal.devices.messages import (
    Assign,
    Ended,
    FromWorker,
    Release,
    Released,
    Started,
    ToWorker,
    Update,
)
from shoal.engine.release import release_from
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import TRACE_COLUMNS
from shoal.planner import make_plan, spread
from shoal.simulate import part_seconds
from shoal.types import Completion, PlanFigures

MESSAGE_SECONDS = 0.05
"""Of each message's way."""
PLAN_SECONDS = 1e-5
"""Of planning, for each request that a device is given."""
ANSWER_SECONDS = 1.0
"""Of an answer of the expected length that is decoded alone: 128 tokens of 8 ms."""
AT_ONCE = MACHINE.kv_tokens // PROMPT
"""Requests under way on a device."""
UPDATES = 20
"""That a device sends of what it was given at once."""
TOGETHER_SECONDS = 0.02
"""What comes within that time the driver takes together."""

_NO_TRACE = np.zeros((0, len(TRACE_COLUMNS)))
Seconds = npt.NDArray[np.float64]


class ClockDevice:
    """What a device has been given, and when it begins and ends each request."""

    def __init__(self, speed: float, job: FleetJob) -> None:
        self.speed, self._job = speed, job
        self.working = False

    def assign(self, assigned: Assign, now: float) -> PlanFigures:
        """Plan it, and fix its times."""
        table = assigned.table
        self.plan = plan = spread(make_plan(table, machine=MACHINE), table)
        self.seconds = part_seconds(table, plan, MACHINE)
        request = plan.sequence_request
        factor = self._job.factor[assigned.requests[request]]
        work = self.seconds.sequence * factor
        np.add.at(work, plan.segment_first, self.seconds.segment)
        begin = now + PLAN_SECONDS * len(table)
        done = begin + np.cumsum(work) / self.speed
        before = np.concatenate([np.full(min(AT_ONCE, len(done)), begin), done[:-AT_ONCE]])
        self.begins = before[: len(done)]
        self.ends = np.maximum(done, self.begins + ANSWER_SECONDS * factor / self.speed)
        self.left = np.argsort(self.ends, kind="stable")
        self.requests = assigned.requests[request]
        self.chunk = max(1, len(done) // UPDATES)
        self.end = len(done)
        self.working = True
        return PlanFigures(plan.prompt_tokens, plan.computed_prompt_tokens, plan.num_segments)

    @property
    def next_update(self) -> float:
        """When a chunk more, or all that is left, will have ended."""
        return float(self.ends[self.left[min(self.chunk, len(self.left)) - 1]])

    def take(self, now: float) -> list[Completion]:
        """The requests that have ended."""
        done = int(np.searchsorted(self.ends[self.left], now, side="right"))
        ended, self.left = self.left[:done], self.left[done:]
        return [Completion(number, 0, ()) for number in self.requests[ended].tolist()]

    def release(self, parts: int, now: float) -> npt.NDArray[np.int64]:
        """Give up the end of what has not begun."""
        begun = int(np.searchsorted(self.begins[: self.end], now, side="right"))
        first = release_from(self.plan, self.seconds, begun, self.end, parts)
        if first is None:
            return np.zeros(0, dtype=np.int64)
        given = np.sort(self.requests[first : self.end])
        self.left = self.left[self.left < first]
        self.end = first
        return given


class ClockFleet:
    """See above. `speeds` of the devices, 1.0 is what is predicted.

    Attributes:
        now: seconds of the clock.
        busy: the process's own seconds that devices took to plan and to tell, not the driver.
    """

    def __init__(self, job: FleetJob, speeds: Seconds) -> None:
        self.options = EngineOptions(devices=len(speeds))
        self.machine = MACHINE
        self.workers = {number: f"clock:{number}" for number in range(len(speeds))}
        self.ready = set(self.workers)
        self.devices = [ClockDevice(speed, job) for speed in speeds.tolist()]
        self.now = self.busy = 0.0
        self.releases = 0
        self._order = count()
        self._post: list[tuple[float, int, int, ToWorker | FromWorker | None]] = []
        self._due: dict[int, int] = {}

    def start(self, worker: int) -> None:
        """Nobody dies here."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Transport`."""

    def send(self, worker: int, message: ToWorker) -> None:
        """See `Transport`."""
        self._put(self.now + MESSAGE_SECONDS, worker, message)

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What comes next, with what comes at about the same time."""
        began = time.process_time()
        heard: list[tuple[int, FromWorker]] = []
        until = float("inf")
        while self._post and self._post[0][0] <= until:
            at, number, worker, message = heapq.heappop(self._post)
            self.now = max(self.now, at)
            if message is None:
                if self._due[worker] == number:
                    self._tell(worker)
            elif isinstance(message, Assign | Release):
                self._answer(worker, message)
            else:
                heard.append((worker, message))  # type: ignore[arg-type]
                until = min(until, at + TOGETHER_SECONDS)
        self.busy += time.process_time() - began
        if not heard:
            raise RuntimeError("the driver waits, and no device has anything to say")
        yield from heard

    def _put(self, at: float, worker: int, message: ToWorker | FromWorker | None) -> int:
        number = next(self._order)
        heapq.heappush(self._post, (at, number, worker, message))
        return number

    def _say(self, worker: int, message: FromWorker) -> None:
        self._put(self.now + MESSAGE_SECONDS, worker, message)

    def _answer(self, worker: int, message: Assign | Release) -> None:
        device = self.devices[worker]
        if isinstance(message, Assign):
            self._say(worker, Started(device.assign(message, self.now)))
            self._wait(worker)
            return
        if not device.working:
            self._say(worker, Released(np.zeros(0, dtype=np.int64)))
            return
        given = device.release(message.parts, self.now)
        self.releases += bool(len(given))
        self._say(worker, Released(given))
        self._wait(worker)

    def _wait(self, worker: int) -> None:
        """Let a device speak when it has ended some; what it would have said before is void."""
        device = self.devices[worker]
        at = device.next_update if len(device.left) else self.now
        self._due[worker] = self._put(max(at, self.now), worker, None)

    def _tell(self, worker: int) -> None:
        device = self.devices[worker]
        self._say(worker, Update(device.take(self.now), RunStats(), _NO_TRACE))
        if len(device.left):
            self._wait(worker)
        else:
            device.working = False
            self._say(worker, Ended())
