"""What runs in a Ray actor: a relay to an engine's process, or the reason why there is none.

This module imports nothing but the standard library. On a machine whose packages do not work
together the actor lives all the same: it says so, and keeps its place, so that Ray sends no other
there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.devices.messages import FromWorker, ToWorker


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
        failed: why it has no engine; None: it has one, or had.
    """

    node: str
    host: str
    messages: Sequence[FromWorker] = ()
    failed: str | None = None


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
        self._failed: str | None = None
        try:
            from shoal.fleet.relay import Relay

            self._relay = Relay(name, threads)
        except Exception as error:  # packages that do not fit raise anything
            self._failed = f"{type(error).__name__}: {error}"

    def tell(self, message: ToWorker | Piece) -> None:
        """Pass a message on to the engine; if that is gone, `hear` tells."""
        import ray

        if isinstance(message, Piece):
            self._relay.tell_piece(ray.get(message.columns))
        else:
            self._relay.tell(message)

    def hear(self, seconds: float) -> News:
        """What the engine says, after waiting at most so long for its first word."""
        import ray

        node, host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        if self._failed is not None:
            return News(node, host, failed=self._failed)
        return News(node, host, self._relay.hear(seconds))

    def pids(self) -> tuple[int, int]:
        """The process ids of the actor and of its engine, on their machine."""
        return os.getpid(), self._relay.engine_pid
