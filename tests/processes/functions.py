"""What the processes of these tests do; imports little, since each of them imports it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from shoal.processes import Parent


def echo(parent: Parent, *arguments: object) -> int:
    """Sends its arguments and threads, then whatever it receives; ends with code 7 after "end"."""
    parent.send((*arguments, os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]))
    while (message := parent.receive()) != "end":
        parent.send(message)
    print("the last line")
    return 7


def stop_itself(parent: Parent) -> int:
    parent.send(os.getpid())
    os.kill(os.getpid(), signal.SIGSTOP)
    return 0


def busy(parent: Parent) -> int:
    parent.send(os.getpid())
    while True:
        pass


def fail(parent: Parent) -> int:
    raise ZeroDivisionError("by nought")


class Spoilt:
    """Cannot be unpickled: calling `function` raises."""

    def __init__(self, function: Callable[[str], object], argument: str) -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call
