"""Which adapters are in memory: from their first user to their last, within a budget.

Users of an adapter are neighbours in the plan, so it comes and goes once, unless memory is short
and it has to make way while its users wait. A sequence whose adapter finds no room is not admitted,
nor is any behind it, before others have ended.
"""

from __future__ import annotations

import numpy as np

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.types import BASE_MODEL, Adapter, Int64Array, RequestTable


class AdapterSlots:
    """Who is in memory, and who may come. The model as it is (`BASE_MODEL`) always is.

    Attributes:
        used_bytes: of those in memory.
        peak_bytes: the most there were.
        loads: how often one came.
    """

    def __init__(self, adapters: tuple[Adapter, ...], of_sequence: Int64Array, budget: int) -> None:
        """Nothing is in memory.

        Args:
            of_sequence: int64 [Q], each sequence's adapter.
            budget: bytes; one adapter by itself is let in whatever it takes.
        """
        self._bytes = [adapter.num_bytes for adapter in adapters]
        self._budget = budget
        users = of_sequence[of_sequence != BASE_MODEL]
        self._unfinished: Int64Array = np.bincount(users, minlength=len(adapters))
        self._running: Int64Array = np.zeros(len(adapters), dtype=np.int64)
        self._resident: dict[int, None] = {}
        self.used_bytes = self.peak_bytes = self.loads = 0

    @classmethod
    def of(cls, table: RequestTable, plan: Plan, machine: Machine) -> AdapterSlots | None:
        """Those of a plan; None: no request has an adapter."""
        if table.adapter is None:
            return None
        of_sequence = table.adapter[plan.sequence_request].astype(np.int64)
        return cls(table.adapters, of_sequence, machine.adapter_bytes)

    @property
    def resident(self) -> tuple[int, ...]:
        """Those in memory, by how long they have been."""
        return tuple(self._resident)

    def fits(self, adapter: int) -> bool:
        """Whether a user of it may come: it is there, or there is room beside those in use."""
        if adapter == BASE_MODEL or adapter in self._resident:
            return True
        in_use = sum(self._bytes[each] for each in self._resident if self._running[each])
        return in_use == 0 or in_use + self._bytes[adapter] <= self._budget

    def enter(self, adapter: int) -> None:
        """A user of it runs. Those that nobody uses at the moment make way, the oldest first."""
        if adapter == BASE_MODEL:
            return
        self._running[adapter] += 1
        if adapter in self._resident:
            return
        idle = [each for each in self._resident if self._running[each] == 0]
        while idle and self.used_bytes + self._bytes[adapter] > self._budget:
            self._drop(idle.pop(0))
        self._resident[adapter] = None
        self.loads += 1
        self.used_bytes += self._bytes[adapter]
        self.peak_bytes = max(self.peak_bytes, self.used_bytes)

    def leave(self, adapter: int, *, finished: bool) -> None:
        """A running user is gone, for good or preempted."""
        if adapter == BASE_MODEL:
            return
        self._running[adapter] -= 1
        if finished:
            self.user_finished(adapter)

    def user_finished(self, adapter: int) -> None:
        """One user less for ever; with the last one the adapter goes."""
        if adapter == BASE_MODEL:
            return
        self._unfinished[adapter] -= 1
        if self._unfinished[adapter] == 0 and adapter in self._resident:
            self._drop(adapter)

    def user_returns(self, adapter: int) -> None:
        """A user that had finished runs once more."""
        if adapter != BASE_MODEL:
            self._unfinished[adapter] += 1

    def _drop(self, adapter: int) -> None:
        del self._resident[adapter]
        self.used_bytes -= self._bytes[adapter]
