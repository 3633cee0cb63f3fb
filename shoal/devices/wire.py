"""Messages through a pipe: pickled, but for the columns of a table, which go as they are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from shoal.devices.messages import Piece
from shoal.types import RequestTable


@dataclass(frozen=True)
class _Columns:
    """What precedes the columns of a piece: the rest of it, and what each column is."""

    rest: dict[str, Any]
    columns: list[tuple[str, np.dtype[Any], int]]


def send(connection: Connection, message: object) -> None:
    """Send a message; a large one waits until the other side reads it.

    Raises:
        OSError: the other side is gone.
    """
    if not isinstance(message, Piece):
        connection.send(message)
        return
    values = {f.name: getattr(message.table, f.name) for f in fields(message.table)}
    arrays = {name: v for name, v in values.items() if isinstance(v, np.ndarray)}
    arrays = {"requests": message.requests, **arrays}
    rest = {name: v for name, v in values.items() if name not in arrays}
    connection.send(_Columns(rest, [(n, a.dtype, len(a)) for n, a in arrays.items()]))
    for array in arrays.values():
        connection.send_bytes(np.ascontiguousarray(array).view(np.uint8).data)


def receive(connection: Connection) -> Any:
    """The next message.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    message = connection.recv()
    if not isinstance(message, _Columns):
        return message
    arrays: dict[str, Any] = {}
    for name, dtype, length in message.columns:
        arrays[name] = np.empty(length, dtype=dtype)
        connection.recv_bytes_into(arrays[name].view(np.uint8).data)
    requests = arrays.pop("requests")
    return Piece(RequestTable(**message.rest, **arrays), requests)
