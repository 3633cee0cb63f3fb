"""Ctrl-C and `kill`: let the iteration under way finish and its results be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from shoal.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Turns signals, SIGINT and SIGTERM if not said, into `Interrupted`.

    At once, except while `deferred`: there the first signal only sets `requested`, and the second
    one raises. In a thread other than the main one, which Python gives no signals, it does nothing.
    """

    def __init__(self, message: str, signals: Sequence[signal.Signals] = _SIGNALS) -> None:
        self._message, self._signals = message, signals
        self._deferring = False
        self.requested = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals in this block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._handle) for number in self._signals}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A block that looks at `requested` itself, and calls `check` when it is safe to stop."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.requested:
            raise Interrupted(self._message)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if again or not self._deferring:
            raise Interrupted(self._message)
