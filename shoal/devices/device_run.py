"""A run on several devices: assigns requests, and again when a device is idle or gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from shoal.costs import Machine
from shoal.devices.assignments import Assignments
from shoal.devices.device_progress import AssignedPart, DeviceProgress
from shoal.devices.merged import added, merged, one_after_another
from shoal.devices.messages import (
    Assign,
    Cancel,
    Ended,
    FromWorker,
    Ready,
    Release,
    Released,
    Started,
    Update,
    WorkerDied,
    WorkerFailed,
)
from shoal.devices.protocols import Transport
from shoal.devices.suspects import Group, Suspects
from shoal.engine.engine import CANCELLED
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import TRACE_COLUMNS, IterationTrace
from shoal.errors import DeviceLostError, InternalError, InvalidRequestError, ShoalError
from shoal.planner import Plan
from shoal.planning import Share, divide_job, plan_run
from shoal.simulate import part_seconds
from shoal.types import Completion, Int64Array, PlanFigures, RequestTable

MOST_DEATHS = 3
"""Of a device that completes nothing in between, before it is given up; and of all devices together
while none completes anything and each has died, before the run is."""
SUSPECTS_DEATH = 0.25
"""What the death of a device counts that ran nothing but suspects: it may well be their doing."""
WAIT_SECONDS = 0.1
"""How long the run waits for the devices to say something before it yields."""

KILLS = InvalidRequestError(
    "the engine's process died each time it ran the request, with others and alone.",
    code="engine_died",
    status_code=500,
)

_log = logging.getLogger(__name__)


class DeviceRun:
    """A run under way on several devices; see `shoal.engine.engine.Run`.

    Each device gets a share of equal predicted time, and plans it for itself. One that has finished
    takes over what the slowest has not begun, and so on until there is nothing left to take. A
    device whose process dies is started again, and what it had not finished goes to whoever is idle
    first. Breaking the iteration off ends the processes.
    """

    def __init__(self, group: Transport, table: RequestTable) -> None:
        self.prompt_lengths = table.lengths
        self._device = group.machine
        self._group, self._table = group, table
        self._devices = {
            number: DeviceProgress(ready=number in group.ready) for number in group.workers
        }
        devices = max(1, len(group.ready))
        division = divide_job(table, group.options, self._device, devices)
        self.plan: Plan = division.spread
        """Of the whole table, not in the order of any device."""
        seconds = part_seconds(table, self.plan, self._device)
        self._assignments = Assignments(seconds.of_requests(self.plan, len(table)))
        self._shares = division.shares
        self._first: list[AssignedPart] = []
        """The parts of the division, when they are handed out."""
        self._deaths: list[int] = []
        self._suspects = Suspects()
        self._given_up: list[Completion] = []
        self._works = False
        """Whether a request was completed, so that it is not the devices that are broken."""
        self._cancelled = np.zeros(len(table), dtype=np.bool_)
        self._began = time.perf_counter()

    @property
    def machine(self) -> Machine:
        """One device, with the KV pools of all."""
        kv_tokens = self._device.kv_tokens * len(self._devices)
        return replace(self._device, kv_tokens=kv_tokens)

    @property
    def planned(self) -> PlanFigures:
        """The plans of the parts that the run began with, together.

        A prefix that several devices compute counts for each of them. Before a device has told its
        plan, the division's expectation stands for it.
        """
        if not self._first:
            return PlanFigures.together([share.figures for share in self._shares])
        return PlanFigures.together([assigned.planned for assigned in self._first])

    @property
    def stats(self) -> RunStats:
        """Counts of all devices together."""
        stats = added(one_after_another(d.before, d.now) for d in self._devices.values())
        stats.device_seconds = [device.busy_seconds for device in self._devices.values()]
        if not self._assignments.unfinished:
            once = stats.prompt_tokens_computed - stats.prompt_tokens_recomputed
            beyond = once - self.planned.computed_prompt_tokens
            stats.prompt_tokens_recomputed += max(0, beyond)
        return stats

    @property
    def trace(self) -> IterationTrace:
        """The iterations of all devices."""
        none = np.zeros((0, len(TRACE_COLUMNS)))
        return merged([np.concatenate([none, *device.trace]) for device in self._devices.values()])

    def __iter__(self) -> Iterator[list[Completion]]:
        """Lists of finished requests, possibly empty, several times a second.

        Raises:
            DeviceLostError: processes died again and again; what was yielded is sound.
            ShoalError: what an engine raised.
        """
        self._began = time.perf_counter()
        try:
            while self._under_way:
                completions = self._drop_cancelled() + self._given_up
                self._given_up = []
                self._assign_waiting()
                error: ShoalError | None = None
                try:
                    for number, message in self._group.events(WAIT_SECONDS):
                        completions += self._take(number, message)
                except ShoalError as raised:
                    error = raised
                yield completions  # what had come before the error is sound
                if error is not None:
                    raise error
        except BaseException:
            self._group.close()
            raise

    def cancel(self, requests: Int64Array) -> None:
        """Give up some requests; see `Run.cancel`. Those that a device has it gives up soon."""
        self._cancelled[requests] = True
        for number, device in self._devices.items():
            theirs = self._assignments.of(number)
            if device.busy and self._cancelled[theirs].any():
                self._group.send(number, Cancel(theirs[self._cancelled[theirs]]))

    def _drop_cancelled(self) -> list[Completion]:
        """Complete cancelled requests that no device has."""
        waiting = self._assignments.waiting
        dropped = waiting[self._cancelled[waiting]]
        self._assignments.drop(dropped)
        lengths = self.prompt_lengths[dropped].tolist()
        return [
            Completion(request, length, (), CANCELLED)
            for request, length in zip(dropped.tolist(), lengths, strict=True)
        ]

    @property
    def _under_way(self) -> bool:
        """Whether a request is unfinished, or a device has something to say about this run."""
        busy = any(device.busy for device in self._devices.values())
        left = bool(self._given_up) or self._assignments.unfinished > 0
        return busy or bool(self._assignments.asked) or left

    # Assigning.

    def _assign_waiting(self) -> None:
        """Give idle devices what waits; where nothing does, ask busy ones to release some."""
        idle = [n for n, device in self._devices.items() if device.ready and not device.busy]
        if self._suspects.waiting:
            idle = self._assign_suspects(idle)
        if not idle:
            return
        waiting = self._assignments.waiting
        if self._suspects.waiting:
            waiting = np.setdiff1d(waiting, self._suspects.requests)
        if len(waiting):
            first = not self._first
            # The others were promised what has been asked for and has not come.
            del idle[max(1, len(idle) - self._assignments.promised) :]
            for number, share in zip(idle, self._shares_for(len(idle), waiting), strict=True):
                if len(share.requests):
                    self._assign(number, AssignedPart(share.requests, first, share.figures))
            return
        busy = [n for n, device in self._devices.items() if device.busy and not device.suspects]
        for number, parts in self._assignments.ask(busy, len(idle)).items():
            self._group.send(number, Release(parts))

    def _assign_suspects(self, idle: list[int]) -> list[int]:
        """Give idle devices a group of suspects each; the devices that get none."""
        left = []
        for number in idle:
            group = self._suspects.take(number, others=self._present > 1)
            requests = None if group is None else group.requests[~self._cancelled[group.requests]]
            if requests is None or not len(requests):
                left.append(number)
                continue
            table = self._table.select(requests)
            figures = divide_job(table, self._group.options, self._device, 1).shares[0].figures
            self._assign(number, AssignedPart(requests, False, figures, group=group))
        return left

    @property
    def _present(self) -> int:
        """Devices that may be given a request which killed another one."""
        devices = self._devices.values()
        return sum((d.used or d.ready) and not d.retired for d in devices)

    def _shares_for(self, devices: int, waiting: Int64Array) -> list[Share]:
        """What waits, divided; for the first time that was done already."""
        shares, self._shares = self._shares, []
        if len(shares) == devices:
            return shares
        table = self._table.select(waiting)
        division = divide_job(table, self._group.options, self._device, devices)
        return [replace(share, requests=waiting[share.requests]) for share in division.shares]

    def _assign(self, number: int, assigned: AssignedPart) -> None:
        device = self._devices[number]
        device.busy, device.used, device.assigned = True, True, assigned
        device.assigned_at = device.started_at = self._now()
        if assigned.first:
            self._first.append(assigned)
        self._assignments.assign(number, assigned.requests)
        table = self._table.select(assigned.requests)
        self._group.send(number, Assign(table, assigned.requests))

    def _now(self) -> float:
        return time.perf_counter() - self._began

    # What devices say.

    def _take(self, number: int, message: FromWorker) -> list[Completion]:
        """Note what a device says; the requests that it finished. It may be one that joins."""
        device = self._devices.setdefault(number, DeviceProgress(ready=False))
        match message:
            case Started(planned):
                device.started_at = self._now()
                if device.assigned is not None:
                    device.assigned.planned, device.assigned.told = planned, True
            case Update():
                return self._update(number, message)
            case Ended():
                if len(self._assignments.of(number)):
                    raise InternalError("a device ended before its requests were completed")
                device.end(self._now())
            case Released(requests):
                self._assignments.released(number, requests)
            case Ready():
                device.ready = True
            case WorkerFailed(error):
                self._failed(number, error)
            case WorkerDied():
                self._died(number, message)
        return []

    def _update(self, number: int, update: Update) -> list[Completion]:
        device = self._devices[number]
        if update.completions:
            done = np.array([completion.request_index for completion in update.completions])
            self._assignments.complete(number, done)
            device.deaths, self._works = 0, True
            self._deaths.clear()
        device.now = update.stats
        rows = update.trace.copy()  # what a transport brings may be read-only
        rows[:, 0] += device.started_at
        device.trace.append(rows)
        return update.completions

    def _failed(self, number: int, error: Exception) -> None:
        """An engine raised: not for another device to repeat, unless this one was only starting."""
        if self._devices[number].ready:
            raise error
        self._retire(number, f"cannot be used: {error}")

    def _died(self, number: int, died: WorkerDied) -> None:
        device, name = self._devices[number], self._group.workers[number]
        if device.retired:
            return
        group = None if device.assigned is None else device.assigned.group
        again = self._lost(number)
        device.end(self._now())
        device.ready = False
        what = f"{len(again):,} requests that it had not finished are run again"
        _log.warning("the process of %s %s; %s", name, died.reason, what)
        if died.with_machine:
            device.used = False
            self._group.start(number)
            return
        self._suspect(number, group, again)
        device.deaths += 1 if group is None else SUSPECTS_DEATH
        if group is None:
            self._deaths.append(number)
        left = {n for n, other in self._devices.items() if not other.retired}
        if len(self._deaths) >= MOST_DEATHS and left <= set(self._deaths):
            raise DeviceLostError(
                f"processes died {len(self._deaths)} times without completing a request, the last "
                f"time that of {name}, which {died.reason}. What has finished is saved; when the "
                "cause is mended, run the same command again."
            )
        if device.deaths >= MOST_DEATHS:
            self._retire(number, "is given up: its process died again and again")
        else:
            self._group.start(number)

    def _suspect(self, number: int, group: Group | None, again: Int64Array) -> None:
        """Find out whether a request killed a device; it fails if it did so every time."""
        if group is None:
            self._suspects.witnessed(again)
            return
        killers = self._suspects.killed(number, group, again, self._present)
        if not self._works:  # nothing says that it is not the device
            self._suspects.waiting.extend(Group(killers) for _ in killers)
            return
        self._assignments.drop(killers)
        for request in killers.tolist():
            line, length = int(self._table.line[request]) + 1, int(self.prompt_lengths[request])
            _log.warning("a request of line %s is given up: each engine that ran it died", line)
            self._given_up.append(Completion(request, length, (), KILLS))

    def _lost(self, number: int) -> Int64Array:
        """Take back what a device has; a plan that it had no time to tell is made here."""
        assigned, self._devices[number].assigned = self._devices[number].assigned, None
        if assigned is not None and assigned.first and not assigned.told:
            table = self._table.select(assigned.requests)
            assigned.planned = plan_run(table, self._group.options, self._device).figures
        return self._assignments.take_back(number)

    def _retire(self, number: int, why: str) -> None:
        """Go on without a device.

        Raises:
            DeviceLostError: it was the last one.
        """
        device, name = self._devices[number], self._group.workers[number]
        device.ready, device.retired = False, True
        if all(device.retired for device in self._devices.values()):
            raise DeviceLostError(
                f"no device is left: {name} {why}. What has finished is saved; when the cause is "
                "mended, run the same command again."
            )
        _log.warning("%s %s; the run goes on without it", name, why)
