"""What jobs need of an engine, on one device or on several, and what several need of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Protocol

from shoal.config import EngineOptions
from shoal.devices.messages import FromWorker, ToWorker
from shoal.engine.engine import RunStats
from shoal.engine.trace import IterationTrace
from shoal.planner import Costs, Plan
from shoal.types import Completion, Int64Array, RequestTable


class RunProtocol(Protocol):
    """A run under way. Iterating drives it, and yields lists of finished requests."""

    @property
    def plan(self) -> Plan:
        """What is run; its tokens tell what is computed and what is saved."""

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
    def num_blocks(self) -> int:
        """KV blocks there are."""

    @property
    def token_budget(self) -> int:
        """Most tokens in one iteration's batch."""

    def __iter__(self) -> Iterator[list[Completion]]: ...


class EngineProtocol(Protocol):
    """Runs one request table at a time."""

    @property
    def token_budget(self) -> int:
        """Most tokens in one iteration's batch."""

    @property
    def kv_capacity_tokens(self) -> int:
        """Most KV tokens that one request can hold."""

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
    def num_blocks(self) -> int:
        """KV blocks of a worker, of the one that has fewest."""

    @property
    def token_budget(self) -> int:
        """Most tokens in one iteration of a worker."""

    @property
    def costs(self) -> Costs:
        """Of a worker."""

    def start(self, worker: int) -> None:
        """Start a worker, or start it again; `events` tells when it is `Ready`."""

    def send(self, worker: int, message: ToWorker) -> None:
        """Send a message. If the worker is gone that is not told here, but by `events`."""

    def events(self, seconds: float) -> Iterator[tuple[int, FromWorker]]:
        """What workers say, after waiting at most so long for one; `WorkerDied` is its last."""

    def close(self) -> None:
        """End all workers. Idempotent."""
