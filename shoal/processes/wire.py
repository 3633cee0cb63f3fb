"""Messages through a pipe: pickled, but for large arrays, which go as they are.

A message is one frame: how many arrays follow, the bytes of each (uint64 both), the pickle. Each
array is a frame of its own, read straight into the memory that it is used from.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

Frames = Sequence[bytes | memoryview]

LARGE_BYTES = 1 << 16
"""From here on a frame costs less than one more copy."""


def encode(message: object) -> Frames:
    """The frames of a message; they show its large arrays as long as these do not change."""
    large: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= LARGE_BYTES:
            large.append(view)
        return view.nbytes < LARGE_BYTES

    data = pickle.dumps(message, protocol=5, buffer_callback=is_small)
    sizes = struct.pack(f"={1 + len(large)}Q", len(large), *(view.nbytes for view in large))
    return [sizes + data, *large]


def send_frames(connection: Connection, frames: Frames) -> None:
    """Send what `encode` made; what does not fit the pipe waits until the other side reads.

    Raises:
        OSError: the other side is gone, or took nothing for as long as the pipe is told to wait.
    """
    for frame in frames:
        connection.send_bytes(frame)


def receive_frames(connection: Connection) -> Frames:
    """The frames of the next message.

    Raises:
        EOFError, OSError: the other side is gone, or came to a halt in the middle of a message.
    """
    head = connection.recv_bytes()
    (count,) = struct.unpack_from("=Q", head)
    if not count:
        return [head]
    large = [np.empty(size, np.uint8) for size in struct.unpack_from(f"={count}Q", head, 8)]
    for array in large:
        connection.recv_bytes_into(array.data)
    return [head, *(array.data for array in large)]


def decode(frames: Frames) -> Any:
    """The message, whose arrays may be written to."""
    head, *large = frames
    return pickle.loads(memoryview(head)[8 + 8 * len(large) :], buffers=large)
