"""Engines on several devices, which look like one."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices import worker
from shoal.devices.device_run import DeviceRun
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
from shoal.devices.protocols import EngineProtocol
from shoal.engine.engine import Engine
from shoal.errors import DeviceLostError
from shoal.machine.calibration_cache import device_threads
from shoal.model.description import ModelDescription
from shoal.processes import Exited, WorkerProcesses
from shoal.types import RequestTable


def make_engine(description: ModelDescription, options: EngineOptions) -> EngineProtocol:
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
        self._configure = Configure(description, replace(options, devices=1))
        kind = description.device.type
        self.workers = {number: f"{kind}:{number}" for number in range(options.devices)}
        """What each is called in messages."""
        self.processes = WorkerProcesses()
        self._made: dict[int, Ready] = {}
        self.ready: set[int] = set()
        """Devices that wait for requests, or run some."""
        self._measuring: int | None = None
        self._to_measure: list[int] = []
        weakref.finalize(self, self.processes.stop)
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
        for device in self.workers:
            if device not in self.processes.running:
                self.start(device)
        return DeviceRun(self, table)

    def close(self) -> None:
        """End the processes. Idempotent; `run` would start them again."""
        self.ready.clear()
        self.processes.stop()

    def start(self, device: int) -> None:
        """Start a device's process, or start it again; `events` tells when it is `Ready`.

        It has its share of torch's CPU threads.
        """
        self.processes.start(
            device,
            worker.main,
            self.workers[device],
            threads=device_threads(len(self.workers)),
            variables=visible_device(self.description.device.type, device, os.environ),
        )

    def send(self, device: int, message: ToWorker) -> None:
        """Send a message. If the process is gone that is not told here, but by `events`."""
        with suppress(OSError):
            self.processes.send(device, message)

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What the devices say, after waiting at most so long for one to speak.

        What belongs to loading is answered here; of it only `Ready` and `WorkerFailed` are passed
        on.
        """
        for device, message in self.processes.events(seconds):
            if isinstance(message, Exited):
                lost = message.code == worker.EXIT_LOST
                message = WorkerDied("lost its device" if lost else message.reason)
            if not self._answer(device, message):
                yield device, message

    def _load(self) -> None:
        """Start all processes and wait until each is ready."""
        self._measuring, self._to_measure = None, []
        missing = set(self.workers)
        try:
            for device in self.workers:
                self.start(device)
            while missing:
                for device, message in self.events(1.0):
                    match message:
                        case Ready():
                            missing.discard(device)
                        case WorkerFailed(error):
                            raise error
                        case WorkerDied(reason):
                            name = self.workers[device]
                            raise DeviceLostError(f"the process of {name} {reason} while loading.")
        except BaseException:
            self.close()
            raise

    def _answer(self, device: int, message: FromWorker) -> bool:
        """Take part in the loading of a device; whether that was all the message asked for.

        A device that is going to measure the model does so while no other loads or measures: it
        would measure that too. The others then find what it has measured.
        """
        match message:
            case Hello():
                self.send(device, self._configure)
                return True
            case Configured(measured):
                if measured:
                    self.send(device, Load())
                elif self._measuring is None:
                    self._measuring = device
                    self.send(device, Load())
                elif device not in self._to_measure:
                    self._to_measure.append(device)
                return True
            case Ready():
                self._made[device] = message
                self.ready.add(device)
            case WorkerDied():
                self.ready.discard(device)
        if self._measuring == device:
            self._measuring = None
            waiting, self._to_measure = self._to_measure, []
            for other in waiting:
                self.send(other, self._configure)
        return False


def visible_device(kind: str, number: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a worker sees one CUDA device only.

    Args:
        kind: "cpu" or "cuda".
        number: of the device, among those that this process sees.
        environment: of this process.
    """
    if kind != "cuda":
        return {}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = None if visible is None else [entry.strip() for entry in visible.split(",")]
    return {"CUDA_VISIBLE_DEVICES": str(number) if devices is None else devices[number]}
