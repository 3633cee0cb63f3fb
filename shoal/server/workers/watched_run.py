"""A run whose finished requests somebody is shown as they pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shoal.costs import Machine
from shoal.devices import SharedRun
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import IterationTrace
from shoal.planner import Plan
from shoal.types import Completion, Int64Array, PlanFigures


class WatchedRun:
    """As the run that is watched; see `SharedRun`."""

    def __init__(self, run: SharedRun, show: Callable[[list[Completion]], None]) -> None:
        self._run, self._show = run, show

    @property
    def plan(self) -> Plan:
        """See `RunProtocol`."""
        return self._run.plan

    @property
    def planned(self) -> PlanFigures:
        """See `RunProtocol`."""
        return self._run.planned

    @property
    def stats(self) -> RunStats:
        """See `RunProtocol`."""
        return self._run.stats

    @property
    def trace(self) -> IterationTrace:
        """See `RunProtocol`."""
        return self._run.trace

    @property
    def prompt_lengths(self) -> Int64Array:
        """See `RunProtocol`."""
        return self._run.prompt_lengths

    @property
    def machine(self) -> Machine:
        """See `RunProtocol`."""
        return self._run.machine

    def cancel(self, requests: Int64Array) -> None:
        """See `SharedRun`."""
        self._run.cancel(requests)

    def __iter__(self) -> Iterator[list[Completion]]:
        for completions in self._run:
            if completions:
                self._show(completions)
            yield completions
