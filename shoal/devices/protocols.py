"""What jobs need of an engine, and what a job divided over several engines needs of a transport.

`DeviceRun` divides a job over whatever a `Transport` reaches. Engines of ours are reached by a
`DeviceGroup`, which loads them, over a `Carrier`: processes of this machine, or actors of Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Protocol

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices.messages import FromWorker, ToWorker
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import IterationTrace
from shoal.planner import Plan
from shoal.types import Completion, Int64Array, PlanFigures, RequestTable


class RunProtocol(Protocol):
    """A run under way. Iterating drives it, and yields lists of finished requests."""

    @property
    def plan(self) -> Plan:
        """What is run."""

    @property
    def planned(self) -> PlanFigures:
        """The plan that the run began with, of all devices together."""

    @property
    def stats(self) -> RunStats:
        """Live counts."""

    @property
    def trace(self) -> IterationTrace:
        """What each iteration held."""

    @property
    def prompt_lengths(self) -> Int64Array:
        """Of the requests, in tokens."""

    @property
    def machine(self) -> Machine:
        """What it runs on; of several devices one, with the KV pools of all."""

    def __iter__(self) -> Iterator[list[Completion]]: ...


class SharedRun(RunProtocol, Protocol):
    """A run of several jobs."""

    def cancel(self, requests: Int64Array) -> None:
        """Give up some requests, between two iterations; the others go on.

        Those that were not completed complete with an error.
        """


class EngineProtocol(Protocol):
    """Runs one request table at a time."""

    @property
    def machine(self) -> Machine:
        """What a job is planned for: the device, or each of several."""

    def run(self, table: RequestTable) -> RunProtocol:
        """Plan a table and return the run, to be iterated over."""

    def close(self) -> None:
        """Give the weights and the KV memory back. Idempotent."""


class SharedEngine(EngineProtocol, Protocol):
    """One whose requests may be those of several jobs together."""

    def run(self, table: RequestTable) -> SharedRun:
        """See `EngineProtocol`."""


class Transport(Protocol):
    """Workers wherever they are, known by numbers: start, send, events with a time limit, close.

    A worker is given requests (`Assign`), in the order of the job's table. It says what became of
    them (`Started`, `Update`, `Ended`), gives up what it has not begun when it is asked (`Release`,
    `Released`), and may end at any time (`WorkerDied`, `WorkerFailed`). A worker with a new number
    may join at any time: its first word is `Ready`.
    """

    @property
    def options(self) -> EngineOptions:
        """Of the job."""

    @property
    def workers(self) -> Mapping[int, str]:
        """What each is called in messages."""

    @property
    def ready(self) -> Set[int]:
        """Workers that wait for requests, or run some."""

    @property
    def machine(self) -> Machine:
        """What a worker runs on, with the KV pool of the one that has the smallest."""

    def start(self, worker: int) -> None:
        """Start a worker, or start it again; `events` tells when it is `Ready`."""

    def send(self, worker: int, message: ToWorker) -> None:
        """Send a message. If the worker is gone that is not told here, but by `events`."""

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What workers say, after waiting at most so long for one; `WorkerDied` is its last."""

    def close(self) -> None:
        """End all workers. Idempotent."""


class Carrier(Protocol):
    """Starts processes that do `shoal.devices.worker`, and carries messages to and from them.

    Attributes:
        workers: what each is called in messages. All that are wanted are named from the beginning;
            where a carrier is elastic more may be.
        elastic: machines may come and go, and need not be alike. A worker that cannot be used is
            left out then, and the others go on; elsewhere it ends the loading.
    """

    elastic: bool

    @property
    def workers(self) -> Mapping[int, str]:
        """See above."""

    @property
    def running(self) -> Set[int]:
        """Workers that were started and whose end `events` has not told."""

    def start(self, worker: int) -> None:
        """Start a worker, or end it and start it again; its first word is `Hello`."""

    def send(self, worker: int, message: ToWorker) -> None:
        """Send a message; whether the worker is gone, `events` tells."""

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What workers say, after waiting at most so long for one; `WorkerDied` is the last word.

        An elastic carrier starts workers here where there is room for more.
        """

    def stop(self) -> None:
        """End all workers. Idempotent."""
