"""Several engines, which look like one: they are loaded here, wherever their processes are."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices.device_run import MOST_DEATHS, DeviceRun
from shoal.devices.messages import (
    Configure,
    Configured,
    FromWorker,
    Hello,
    Load,
    Ready,
    ToWorker,
    WorkerDied,
    WorkerFailed,
)
from shoal.devices.protocols import Carrier
from shoal.devices.versions import differences, versions_here
from shoal.errors import DeviceLostError, OptionError
from shoal.model.description import ModelDescription
from shoal.types import RequestTable

JOIN_SECONDS = 20.0
"""How long a run that could begin waits for workers whose machine has not started them."""

_log = logging.getLogger(__name__)


class DeviceGroup:
    """One engine per worker of a carrier; runs one request table at a time."""

    def __init__(
        self, description: ModelDescription, options: EngineOptions, carrier: Carrier
    ) -> None:
        """Start the workers and load the weights in each.

        Raises:
            ModelError, OptionError: an engine cannot be made; of an elastic carrier, none can.
            DeviceLostError: a process died; of an elastic carrier, all did again and again.
        """
        self.description, self.options, self.carrier = description, options, carrier
        alone = replace(options, devices=1, ray=None, ray_actors=None, ray_cpus=None)
        self._configure = Configure(description, alone, compared=carrier.elastic)
        self._versions = versions_here()
        self._made: dict[int, Ready] = {}
        self._promised: Machine | None = None
        self.ready: set[int] = set()
        """Workers that wait for requests, or run some."""
        self.left_out: dict[int, Exception] = {}
        """Workers that could not be used when the group was loaded, and why."""
        self.loading: set[int] = set()
        """Workers that have said `Hello` and are not ready yet."""
        self._measuring: int | None = None
        self._to_measure: list[int] = []
        weakref.finalize(self, carrier.stop)
        self._load()

    @property
    def workers(self) -> Mapping[int, str]:
        """What each that can be used is called in messages."""
        names = self.carrier.workers
        return {worker: name for worker, name in names.items() if worker not in self.left_out}

    @property
    def machine(self) -> Machine:
        """A worker's, with the KV pool of the one that has the smallest."""
        if self._promised is not None:
            return self._promised
        made = [ready.machine for ready in self._made.values()]
        return replace(made[0], kv_tokens=min(machine.kv_tokens for machine in made))

    def run(self, table: RequestTable) -> DeviceRun:
        """Plan a table, divide it, and return the run, to be iterated over.

        Raises:
            ModelError: after an earlier run was broken off the workers are loaded anew, see
                `DeviceGroup`.
        """
        for _ in self.events(0.0):
            pass  # a process may have died while nothing ran
        if not self.ready:
            self._load()
        for worker in self.workers:
            if worker not in self.carrier.running:
                self.start(worker)
        return DeviceRun(self, table)

    def close(self) -> None:
        """End the workers. Idempotent; `run` would start them again."""
        self.ready.clear()
        self.carrier.stop()

    def start(self, worker: int) -> None:
        """Start a worker, or start it again; `events` tells when it is `Ready`."""
        self.carrier.start(worker)

    def send(self, worker: int, message: ToWorker) -> None:
        """Send a message. If the worker is gone that is not told here, but by `events`."""
        self.carrier.send(worker, message)

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What the workers say, after waiting at most so long for one to speak.

        What belongs to loading is answered here; of it only `Ready` and `WorkerFailed` are passed
        on.
        """
        for worker, message in self.carrier.events(seconds):
            if worker in self.left_out:
                continue
            if isinstance(message, Hello | Ready) and (why := self._unfit(message)) is not None:
                message = WorkerFailed(why)
            if not self._answer(worker, message):
                yield worker, message

    def _unfit(self, message: Hello | Ready) -> Exception | None:
        """Why a worker cannot take part, after what it says of itself."""
        if isinstance(message, Hello):
            if found := differences(self._versions, message.versions):
                return OptionError(
                    f"it runs {', '.join(found)}. Install the same versions on every machine."
                )
        elif self._promised is not None and message.machine.kv_tokens < self._promised.kv_tokens:
            return OptionError(
                f"its KV pool holds {message.machine.kv_tokens:,} tokens, and requests may take "
                f"{self._promised.kv_tokens:,}, as the other workers' pools hold. Give kv_memory."
            )
        return None

    def _load(self) -> None:
        """Start all workers and wait until each is ready."""
        self._measuring, self._to_measure, self._promised = None, [], None
        for known in (self._made, self.left_out, self.loading):
            known.clear()
        try:
            for worker in self.workers:
                self.start(worker)
            _Loading(self).wait()
        except BaseException:
            self.close()
            raise
        if self.carrier.elastic:
            self._promised = self.machine

    def _answer(self, worker: int, message: FromWorker) -> bool:
        """Take part in the loading of a worker; whether that was all the message asked for.

        A worker that is going to measure the model does so while no other loads or measures: it
        would measure that too. The others then find what it has measured.
        """
        match message:
            case Hello():
                self.loading.add(worker)
                self.send(worker, self._configure)
                return True
            case Configured(measured):
                if measured:
                    self.send(worker, Load())
                elif self._measuring is None:
                    self._measuring = worker
                    self.send(worker, Load())
                elif worker not in self._to_measure:
                    self._to_measure.append(worker)
                return True
            case Ready():
                self._made[worker] = message
                self.ready.add(worker)
                self.loading.discard(worker)
            case WorkerDied():
                self.ready.discard(worker)
                self.loading.discard(worker)
            case WorkerFailed():
                self.loading.discard(worker)
        if self._measuring == worker:
            self._measuring = None
            waiting, self._to_measure = self._to_measure, []
            for other in waiting:
                self.send(other, self._configure)
        return False


class _Loading:
    """Waits until the workers of a group are ready, as far as they will be."""

    def __init__(self, group: DeviceGroup) -> None:
        self._group = group
        self._elastic = group.carrier.elastic
        self._deaths: dict[int, int] = {}
        self._first_ready = float("inf")

    def wait(self) -> None:
        """Until all are; of an elastic carrier, those that can be used and have a machine.

        Raises:
            ShoalError: see `DeviceGroup`.
        """
        group = self._group
        while group.workers.keys() - group.ready:
            waited = time.monotonic() - self._first_ready
            if self._elastic and not group.loading and waited > JOIN_SECONDS:
                return  # the others join the run when a machine has room for them
            for worker, message in group.events(1.0):
                match message:
                    case Ready():
                        self._first_ready = min(self._first_ready, time.monotonic())
                    case WorkerFailed(error):
                        self._failed(worker, error)
                    case WorkerDied():
                        self._died(worker, message)
        if not group.ready:
            raise next(iter(group.left_out.values()))

    def _failed(self, worker: int, error: Exception) -> None:
        if not self._elastic:
            raise error
        _log.warning("%s is left out: %s", self._group.workers[worker], error)
        self._group.left_out[worker] = error

    def _died(self, worker: int, died: WorkerDied) -> None:
        name = self._group.workers[worker]
        error = DeviceLostError(f"the process of {name} {died.reason} while loading.")
        if not self._elastic:
            raise error
        self._deaths[worker] = self._deaths.get(worker, 0) + (not died.with_machine)
        if self._deaths[worker] >= MOST_DEATHS:
            self._failed(worker, error)
            return
        _log.warning("%s", error)
        self._group.start(worker)
