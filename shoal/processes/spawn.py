"""Starting a Python process, and the words for how one ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import BinaryIO, Protocol

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from shoal.processes.parent import main; main(*map(int, sys.argv[2:]))"
)


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; raises `subprocess.TimeoutExpired`."""

    def kill(self) -> None:
        """SIGKILL."""


def spawn(
    control: Connection, lifeline: int, output: BinaryIO | None, variables: Mapping[str, str]
) -> Process:
    """Start a new Python that does what `shoal.processes.parent.main` does.

    Unlike `multiprocessing` it never imports the program's main module again. It is in a session of
    its own, so that the terminal's Ctrl-C does not reach it.

    Args:
        control: its end of the pipe for messages.
        lifeline: the read end of the pipe that it watches.
        output: where it prints; None: all of it to our standard error.
        variables: of its environment, besides ours.
    """
    path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, path, str(control.fileno()), str(lifeline)],
        pass_fds=(control.fileno(), lifeline),
        stdin=subprocess.DEVNULL,
        stdout=output or 2,  # what a library prints must not get among our own output
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **variables},
    )


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"
