"""In a process that another one started: its pipe to that one, and its end with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from shoal.processes.wire import decode, encode, receive_frames, send_frames

EXIT_WITH_PARENT = 0
EXIT_FAILED = 1


class Parent:
    """The process that started this one; whoever speaks to it when it is gone raises SystemExit."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: object) -> None:
        """Send a message; a large one waits until it is read."""
        try:
            send_frames(self._connection, encode(message))
        except OSError:
            raise SystemExit(EXIT_WITH_PARENT) from None

    def receive(self) -> Any:
        """Wait for a message."""
        try:
            frames = receive_frames(self._connection)
        except (EOFError, OSError):
            raise SystemExit(EXIT_WITH_PARENT) from None
        return decode(frames)

    def poll(self) -> Any | None:
        """A message, if one has come."""
        try:
            has_come = self._connection.poll()
        except OSError:
            raise SystemExit(EXIT_WITH_PARENT) from None
        return self.receive() if has_come else None


def main(control: int, lifeline: int) -> None:
    """Do what the parent says: a function, called with it and arguments, returns the exit code.

    Args:
        control: file descriptor of the pipe for messages.
        lifeline: of a pipe whose other end only the parent holds. The system closes it when the
            parent dies, and this process ends then, whatever it is doing.
    """
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C does
    code = EXIT_FAILED
    try:
        parent = Parent(Connection(control))
        function, arguments = parent.receive()
        code = function(parent, *arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not through the interpreter's end: what torch tidies up there may wait for dead processes.
        os._exit(code)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(EXIT_WITH_PARENT)
