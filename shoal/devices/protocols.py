"""What jobs and the Python API need of an engine, on one device or on several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from shoal.costs import Machine
from shoal.engine.engine import RunStats
from shoal.engine.trace import IterationTrace
from shoal.planner import Plan
from shoal.types import Completion, Int64Array, PlanFigures, RequestTable


class AnyRun(Protocol):
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


class AnyEngine(Protocol):
    """Runs one request table at a time."""

    @property
    def machine(self) -> Machine:
        """What a job is planned for: the device, or each of several."""

    def run(self, table: RequestTable) -> AnyRun:
        """Plan a table and return the run, to be iterated over."""

    def close(self) -> None:
        """Give the weights and the KV memory back. Idempotent."""
