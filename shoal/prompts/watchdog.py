"""A limit on the time of a call into Python code that is not ours, such as a model's template."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

_Result = TypeVar("_Result")
_AGAIN_SECONDS = 0.5
"""A call that still runs so long after it was told to stop is told again: its code may have caught
the exception."""


class TimeLimitError(Exception):
    """A call took more processor time than it may."""


class _Stop(BaseException):
    """Raised from outside within a call; no `except Exception` of its code takes it."""


@dataclass
class _Call:
    """A call in `thread`, to be stopped when that thread's clock reads `deadline`."""

    thread: int
    clock: int
    deadline: float
    stopped: bool = False


class Watchdog:
    """Stops calls that take more than `seconds` of their thread's processor time.

    Waiting does not count, nor do other threads, so a busy or suspended machine stops nothing. One
    daemon thread looks at the calls under way; it ends when it finds none. It raises an exception
    in the calling thread, which takes effect between two operations of Python code: a single
    operation that takes for ever is not stopped.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._calls: dict[int, _Call] = {}
        self._watcher: threading.Thread | None = None

    def call(self, function: Callable[[], _Result]) -> _Result:
        """What `function` returns or raises. Calls must not be nested.

        Raises:
            TimeLimitError: it was stopped.
        """
        thread = threading.get_ident()
        clock = time.pthread_getcpuclockid(thread)
        call = _Call(thread, clock, time.thread_time() + self.seconds)
        try:
            try:
                self._begin(call)
                return function()
            finally:
                self._end(call)
        except BaseException as error:
            self._end(call)  # an exception from outside may have struck within the first one
            if isinstance(error, _Stop):
                raise TimeLimitError from None
            raise

    def _begin(self, call: _Call) -> None:
        with self._lock:
            self._calls[call.thread] = call
            if self._watcher is None or not self._watcher.is_alive():  # ended, or lost in a fork
                self._watcher = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._watcher.start()

    def _end(self, call: _Call) -> None:
        """After this nothing strikes: no more is sent, and what was sent last is taken back."""
        with self._lock:
            self._calls.pop(call.thread, None)
        if call.stopped:
            _send(call.thread, None)

    def _watch(self) -> None:
        seconds = self.seconds
        while True:
            time.sleep(seconds)
            with self._lock:
                if not self._calls:
                    self._watcher = None
                    return
                seconds = min(map(self._remaining, self._calls.values()))

    def _remaining(self, call: _Call) -> float:
        """Seconds until the call is to be looked at again; stops it if its time is up."""
        remaining = call.deadline - time.clock_gettime(call.clock)
        if remaining > 0:
            return remaining
        call.stopped = True
        _send(call.thread, _Stop)
        return _AGAIN_SECONDS


def _send(thread: int, exception: type[BaseException] | None) -> None:
    """Have a thread raise an exception as soon as it may; None takes back one not yet raised."""
    sent = None if exception is None else ctypes.py_object(exception)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), sent)
