"""Ctrl-C and `kill`: let the iteration under way finish and its results be kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from shoal.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Turns signals, SIGINT and SIGTERM if not said, into `Interrupted`.

    At once, except while `deferred`: there the first signal only sets `requested`, and the second
    one raises. In a thread other than the main one, which Python gives no signals, only `asked`
    interrupts.

    Args:
        asked: a further way to ask, looked at whenever `requested` is.
    """

    def __init__(
        self,
        message: str,
        signals: Sequence[signal.Signals] = _SIGNALS,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self._message, self._signals, self._asked = message, signals, asked
        self._deferring = False
        self._requested = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come, or somebody asked otherwise."""
        if not self._requested and self._asked():
            self._requested = True
        return self._requested

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
        """Raise `Interrupted` if it is requested."""
        if self.requested:
            raise Interrupted(self._message)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self._requested = self._requested, True
        if again or not self._deferring:
            raise Interrupted(self._message)
