"""Engines in processes of this machine, one for each device or for each few devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress

from shoal.devices import worker
from shoal.devices.messages import FromWorker, ToWorker, WorkerDied
from shoal.machine.calibration_cache import device_threads
from shoal.processes import Exited, WorkerProcesses


class LocalProcesses:
    """A `Carrier` whose workers are processes of this machine. Each has its part of the threads."""

    elastic = False

    def __init__(self, kind: str, engines: int, each: int) -> None:
        """
        Args:
            kind: "cpu" or "cuda".
            engines: how many there are.
            each: devices that each of them has.
        """
        self.processes = WorkerProcesses()
        self.workers = {n: _name(kind, n * each, each) for n in range(engines)}
        """What each is called in messages."""
        self._kind, self._each = kind, each

    @property
    def running(self) -> Set[int]:
        """See `Carrier`."""
        return self.processes.running.keys()

    def start(self, number: int) -> None:
        """Start a worker's process, or start it again."""
        self.processes.start(
            number,
            worker.main,
            self.workers[number],
            threads=device_threads(len(self.workers)),
            variables=visible_devices(self._kind, number * self._each, self._each, os.environ),
        )

    def send(self, number: int, message: ToWorker) -> None:
        """Send a message. If the process is gone that is not told here, but by `events`."""
        with suppress(OSError):
            self.processes.send(number, message)

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What the workers say, after waiting at most so long for one to speak."""
        for number, message in self.processes.events(seconds):
            yield number, how_it_died(message) if isinstance(message, Exited) else message

    def stop(self) -> None:
        """End the processes. Idempotent."""
        self.processes.stop()


def how_it_died(exited: Exited) -> WorkerDied:
    """The end of a worker's process in words."""
    lost = exited.code == worker.EXIT_LOST
    return WorkerDied("lost its device" if lost else exited.reason)


def visible_devices(
    kind: str, first: int, count: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """The variables by which a worker sees some CUDA devices only.

    Args:
        kind: "cpu" or "cuda".
        first: device, among those that this process sees, of `count`.
        environment: of this process.
    """
    if kind != "cuda":
        return {}
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    numbers = range(first, first + count)
    if visible is None:
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, numbers))}
    devices = [entry.strip() for entry in visible.split(",")]
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[number] for number in numbers)}


def _name(kind: str, first: int, each: int) -> str:
    return f"{kind}:{first}" if each == 1 else f"{kind}:{first}-{first + each - 1}"
