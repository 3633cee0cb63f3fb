"""What runs in a Ray actor: an engine's process, started here, and the messages to and from it.

The engine is the same process that one machine's devices have (`shoal.devices.worker`). It ends
with the actor, whose end closes the pipe that it watches. The actor itself computes nothing, so it
answers while the engine is busy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shoal.devices import worker
from shoal.devices.local_processes import how_it_died
from shoal.devices.messages import FromWorker, ToWorker
from shoal.fleet.piece_columns import assigned_piece
from shoal.processes import Exited, WorkerProcesses

MOST_MESSAGES = 100
"""In one answer to the driver."""


@dataclass(frozen=True)
class Piece:
    """Stands for an `Assign`: its columns are in Ray's object store (`piece_columns`).

    Attributes:
        columns: a reference, within the message so that Ray does not fetch it before the turn of
            this message has come.
    """

    columns: Any


@dataclass(frozen=True)
class News:
    """What an actor tells the driver, and where it is.

    Attributes:
        node: Ray's id of its machine.
        host: the machine's address.
    """

    node: str
    host: str
    messages: Sequence[FromWorker]


class RayActor:
    """Starts an engine's process and passes on what is said; `tell` and `hear` have a thread each.

    Of the messages of one thread Ray keeps the order.
    """

    def __init__(self, name: str, threads: int) -> None:
        """
        Args:
            name: of the worker, for messages.
            threads: of the CPU, for its engine.
        """
        self._processes = WorkerProcesses()
        self._processes.start(0, worker.main, name, threads=threads)

    def tell(self, message: ToWorker | Piece) -> None:
        """Pass a message on to the engine; if that is gone, `hear` tells."""
        import ray

        if isinstance(message, Piece):
            message = assigned_piece(ray.get(message.columns))
        with suppress(OSError):
            self._processes.send(0, message)

    def hear(self, seconds: float) -> News:
        """What the engine says, after waiting at most so long for its first word."""
        import ray

        said: list[FromWorker] = []
        if not self._processes.running:
            time.sleep(seconds)
        while len(said) < MOST_MESSAGES:
            found = list(self._processes.events(0.0 if said else seconds))
            if not found:
                break
            for _, message in found:
                said.append(how_it_died(message) if isinstance(message, Exited) else message)
        here = ray.get_runtime_context().get_node_id()
        return News(here, ray.util.get_node_ip_address(), said)

    def engine_pid(self) -> int:
        """The process id of the engine, on the actor's machine."""
        return self._processes.running[0].pid

    def pid(self) -> int:
        """The process id of the actor."""
        return os.getpid()
