"""An engine's process on an actor's machine, and the messages to and from it.

The engine is the same process that one machine's devices have (`shoal.devices.worker`). It ends
with the actor, whose end closes the pipe that it watches. The actor itself computes nothing, so it
answers while the engine is busy.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from shoal.devices import worker
from shoal.devices.local_processes import how_it_died
from shoal.devices.messages import FromWorker, ToWorker
from shoal.fleet.piece_columns import assigned_piece
from shoal.processes import Exited, WorkerProcesses

MOST_MESSAGES = 100
"""In one answer to the driver."""


class Relay:
    """Starts an engine's process; one thread may tell it things while another one hears it."""

    def __init__(self, name: str, threads: int) -> None:
        """See `RayActor`."""
        self._processes = WorkerProcesses()
        self.engine_pid = self._processes.start(0, worker.main, name, threads=threads).pid

    def tell(self, message: ToWorker) -> None:
        """Pass a message on; if the engine is gone, `hear` tells."""
        with suppress(OSError):
            self._processes.send(0, message)

    def tell_piece(self, columns: Any) -> None:
        """Pass on what to run, as `piece_columns` made it."""
        self.tell(assigned_piece(columns))

    def hear(self, seconds: float) -> list[FromWorker]:
        """What the engine says, after waiting at most so long for its first word."""
        said: list[FromWorker] = []
        while len(said) < MOST_MESSAGES:
            found = list(self._processes.events(0.0 if said else seconds))
            if not found:
                break
            for _, message in found:
                said.append(how_it_died(message) if isinstance(message, Exited) else message)
        return said
