"""Engines on several devices, which look like one."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices.device_run import DeviceRun
from shoal.devices.messages import (
    Died,
    Failed,
    FromWorker,
    Hello,
    Load,
    Prepare,
    Prepared,
    Ready,
)
from shoal.devices.process import WorkerProcess, worker_processes
from shoal.devices.protocols import AnyEngine
from shoal.engine.engine import Engine
from shoal.errors import DeviceLostError
from shoal.model.description import ModelDescription
from shoal.types import RequestTable

_log = logging.getLogger(__name__)


def make_engine(description: ModelDescription, options: EngineOptions) -> AnyEngine:
    """The engine for these options: in this process, or one per device in processes of their own.

    Raises:
        ModelError, OptionError: see `Engine`.
    """
    if options.devices == 1:
        return Engine(description, options)
    return DeviceGroup(description, options)


class DeviceGroup:
    """One engine per device, each in its own process; runs one request table at a time."""

    def __init__(self, description: ModelDescription, options: EngineOptions) -> None:
        """Start the processes and load the weights on every device.

        Raises:
            ModelError, OptionError: an engine cannot be made.
            DeviceLostError: a process died.
        """
        self.description, self.options = description, options
        self._prepare = Prepare(description, replace(options, devices=1))
        self.workers = worker_processes(description.device, options.devices)
        self._made: dict[int, Ready] = {}
        self.ready: set[int] = set()
        """Devices that wait for requests, or run some."""
        self._measuring: int | None = None
        self._to_measure: list[int] = []
        weakref.finalize(self, _close_all, self.workers)
        self._load()

    @property
    def machine(self) -> Machine:
        """A device, with the KV pool of the one that has the smallest."""
        made = [ready.machine for ready in self._made.values()]
        return replace(made[0], kv_tokens=min(machine.kv_tokens for machine in made))

    def run(self, table: RequestTable) -> DeviceRun:
        """Plan a table, divide it, and return the run, to be iterated over.

        Raises:
            ModelError: after an earlier run was broken off the devices are loaded anew, see
                `DeviceGroup`.
        """
        for _ in self.events(0.0):
            pass  # a process may have died while nothing ran
        if not self.ready:
            self._load()
        for device, worker in enumerate(self.workers):
            if not worker.alive:
                self.start(device)
        return DeviceRun(self, table)

    def close(self) -> None:
        """End the processes. Idempotent; `run` would start them again."""
        self.ready.clear()
        _close_all(self.workers)

    def start(self, device: int) -> None:
        """Start a device's process, or start it again; `events` tells when it is `Ready`."""
        self.workers[device].start()

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What the devices say, after waiting at most so long for one to speak.

        What belongs to loading is answered here; of it only `Ready` and `Failed` are passed on.
        """
        by_pipe = {w.connection: n for n, w in enumerate(self.workers) if w.connection is not None}
        for pipe in wait(list(by_pipe), seconds):
            device = next(number for known, number in by_pipe.items() if known is pipe)
            for message in self.workers[device].received():
                if not self._answer(device, message):
                    yield device, message

    def _load(self) -> None:
        """Start all processes and wait until each is ready."""
        self._measuring, self._to_measure = None, []
        missing = set(range(len(self.workers)))
        try:
            for device in missing:
                self.start(device)
            while missing:
                for device, message in self.events(1.0):
                    match message:
                        case Ready():
                            missing.discard(device)
                        case Failed(error):
                            raise error
                        case Died(reason):
                            name = self.workers[device].name
                            raise DeviceLostError(f"the process of {name} {reason} while loading.")
        except BaseException:
            self.close()
            raise

    def _answer(self, device: int, message: FromWorker) -> bool:
        """Take part in the loading of a device; whether that was all the message asked for.

        A device that is going to measure the model does so while no other loads or measures: it
        would measure that too. The others then find what it has measured.
        """
        worker = self.workers[device]
        match message:
            case Hello():
                worker.send(self._prepare)
                return True
            case Prepared(measured):
                if measured:
                    worker.send(Load())
                elif self._measuring is None:
                    self._measuring = device
                    worker.send(Load())
                elif device not in self._to_measure:
                    self._to_measure.append(device)
                return True
            case Ready():
                self._made[device] = message
                self.ready.add(device)
            case Died():
                self.ready.discard(device)
        if self._measuring == device:
            self._measuring = None
            waiting, self._to_measure = self._to_measure, []
            for other in waiting:
                self.workers[other].send(self._prepare)
        return False


def _close_all(workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        worker.close()
