"""A worker's end of its pipe, with a thread for each direction.

The front never waits for an iteration to end before its message is read, and an iteration never
waits for the front. When the front is gone, however it ended, so is the worker.
"""

from __future__ import annotations

import os
import queue
import threading
from multiprocessing.connection import Connection

from shoal.devices.messages import FromWorker, ToWorker
from shoal.devices.wire import receive, send

FRONT_GONE = 0


class Channel:
    """Messages to and from the front."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[ToWorker] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: FromWorker) -> None:
        """Queue a message; what it holds must not change any more."""
        self._outbox.put(message)

    def receive(self) -> ToWorker:
        """Wait for a message."""
        return self._inbox.get()

    def poll(self) -> ToWorker | None:
        """A message if one has come."""
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            return None

    def flush(self) -> None:
        """Wait until everything is sent; nothing can be sent afterwards."""
        self._outbox.put(None)
        self._writer.join()

    def _read(self) -> None:
        while True:
            try:
                message = receive(self._connection)
            except (EOFError, OSError):
                os._exit(FRONT_GONE)
            self._inbox.put(message)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                send(self._connection, message)
            except OSError:
                os._exit(FRONT_GONE)
