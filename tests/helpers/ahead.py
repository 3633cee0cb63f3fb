"""Running ahead on a CPU: the code that drives a GPU, over a stand-in for its memory and events.

Copies are done at once, but between buffers of their own as on a GPU: what was put on a stage is
not there before it is sent.
"""

from __future__ import annotations

import pytest
import torch

from shoal.cuda.transfers import Transfers
from shoal.engine.engine import Engine
from shoal.executor.executor import Executor, TorchExecutor
from shoal.planner import Plan
from shoal.types import RequestTable


class StandInEvent:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.recorded = self.waited = 0

    def record(self) -> None:
        self.recorded += 1

    def synchronize(self) -> None:
        assert self.recorded > self.waited, "nothing to wait for"
        self.waited += 1


def stand_in_transfers(device: str = "cpu") -> Transfers:
    """Transfers between two memories of the host."""

    def allocate(num_bytes: int) -> torch.Tensor:
        return torch.full((num_bytes,), 0x7F, dtype=torch.uint8)

    return Transfers(torch.device(device), allocate, StandInEvent)


def run_ahead(patch: pytest.MonkeyPatch) -> list[TorchExecutor]:
    """From now on engines' executors run ahead; returns them as they are made."""
    made: list[TorchExecutor] = []

    def executor(self: Engine, table: RequestTable, plan: Plan) -> Executor:
        columns = self._model, self._kv, self.description, table, plan
        made.append(TorchExecutor(*columns, transfers=stand_in_transfers()))
        return made[-1]

    patch.setattr(Engine, "executor", executor)
    return made
