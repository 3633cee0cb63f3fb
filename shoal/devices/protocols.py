"""What jobs need of an engine, on one device or on several, and what several need of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Protocol

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices.messages import FromWorker, ToWorker
from shoal.engine.engine import RunStats
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

    def cancel(self, requests: Int64Array) -> None:
        """Give up some requests, between two iterations; the others go on.

        Those that were not completed complete with an error.
        """

    def __iter__(self) -> Iterator[list[Completion]]: ...


class EngineProtocol(Protocol):
    """Runs one request table at a time."""

    @property
    def machine(self) -> Machine:
        """What a job is planned for: the device, or each of several."""

    def run(self, table: RequestTable) -> RunProtocol:
        """Plan a table and return the run, to be iterated over."""

    def close(self) -> None:
        """Give the weights and the KV memory back. Idempotent."""


class Transport(Protocol):
    """Workers wherever they are, known by numbers: start, send, events with a time limit, close.

    Each runs an engine of the same model. Any of them may end at any time.
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
