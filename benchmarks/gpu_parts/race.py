"""Policies side by side on one workload: ratios, and how far their greedy ids agree."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from benchmarks.agreement import by_prompt, compare
from benchmarks.gpu_parts.cells import Cell
from benchmarks.gpu_parts.contenders import OURS, POLICIES, Outcome
from benchmarks.gpu_parts.floors import Floor
from benchmarks.peers.client import RunResult
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Load:
    """What a workload asks of the device, in seconds at the ceilings.

    Attributes:
        private_reads: see `private_reads`.
    """

    floor: Floor
    private_reads: float

    def ideal(self, policy: str) -> float:
        """Seconds of a policy's work; a baseline reads KV once per request."""
        if POLICIES[policy].sharing is not None:
            return self.floor.seconds
        return self.floor.compute + self.private_reads


@dataclass
class Race:
    """A cell's workload, and its runs so far."""

    cell: Cell
    workload: Workload
    times: int
    policies: list[str]
    load: Load
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _ids: dict[str, dict[tuple[int, ...], list[int]]] = field(default_factory=dict)

    def add(self, name: str, workload: Workload, outcome: Outcome) -> None:
        """Keep a run; `workload` in the order the policy got it."""
        self.outcomes[name] = outcome
        if workload.temperature == 0:
            self._ids[name] = by_prompt(workload, RunResult(0.0, outcome.token_ids, 0))

    def ratios(self, name: str) -> dict[str, float]:
        """How many times as long as ours it took, and would have with free scheduling."""
        if name == OURS or OURS not in self.outcomes:
            return {}
        ours, theirs = self.outcomes[OURS].seconds, self.outcomes[name]
        found = {"seconds": theirs.seconds / ours}
        if theirs.execute_seconds is not None:
            found["execute_seconds"] = theirs.execute_seconds / ours
        return found

    def agreement(self, name: str) -> dict[str, float]:
        """Greedy ids against ours."""
        if name == OURS or OURS not in self._ids or name not in self._ids:
            return {}
        return asdict(compare(self._ids[OURS], self._ids[name]))
