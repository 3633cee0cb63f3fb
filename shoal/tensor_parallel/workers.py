"""The processes that hold the other parts of a model: how they start, and how they end.

They end with the process that started them, whatever happens to it: each watches a pipe whose other
end only that process holds, and which the system closes when it dies. They are in a session of
their own, so that Ctrl-C reaches the first process alone, which stops between two iterations.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, Protocol

_MODULE = "shoal.tensor_parallel.follower"
_TAIL_BYTES = 2000


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int

    def wait(self, timeout: float | None = None) -> Any:
        """The exit code, negative for a signal."""

    def kill(self) -> None:
        """SIGKILL."""


@dataclass
class Worker:
    """A process that holds one part of a model.

    Attributes:
        rank: its place among the processes; the first, which starts the others, is 0.
        control: messages to it and answers from it.
        lifeline: write end of the pipe it watches.
        output: what it prints.
    """

    rank: int
    process: Process
    control: Connection
    lifeline: int
    output: BinaryIO

    def last_words(self) -> str:
        """The end of what it printed, for an error message; may be empty."""
        self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, self.output.tell() - _TAIL_BYTES))
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def let_go(self) -> None:
        """Close this end of everything: the process ends, if it has not yet."""
        self.control.close()
        os.close(self.lifeline)


Launch = Callable[[Connection, int, BinaryIO, dict[str, str]], Process]
"""Starts a process: (its control, read end of its lifeline, where it prints, environment)."""


def start_worker(rank: int, threads: int, patience: float, launch: Launch | None = None) -> Worker:
    """Start the process of rank `rank`, which is to compute on `threads` CPU threads.

    A message that it does not take within `patience` seconds raises `OSError` here.
    """
    ours, theirs = Pipe()
    limit_sending(ours, patience)
    watched, lifeline = os.pipe()
    output = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
    environment = {"OMP_NUM_THREADS": str(threads)}
    try:
        process = (launch or launch_python)(theirs, watched, output, environment)
    finally:
        theirs.close()
        os.close(watched)
    return Worker(rank, process, ours, lifeline, output)


def launch_python(
    control: Connection, watched: int, output: BinaryIO, environment: dict[str, str]
) -> Process:
    """A new Python; unlike `multiprocessing` it never imports the program's main module again."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**environment, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(
        [sys.executable, "-m", _MODULE, str(control.fileno()), str(watched)],
        pass_fds=(control.fileno(), watched),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def limit_sending(control: Connection, seconds: float) -> None:
    """Have sending fail after a while, rather than wait for ever for a process that hangs."""
    fraction, whole = math.modf(seconds)
    limit = struct.pack("ll", int(whole), int(fraction * 1e6))  # A timeval.
    with socket.socket(fileno=os.dup(control.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    killed = " (killed; the system does that when memory runs out)" if name == "SIGKILL" else ""
    return f"ended by {name}{killed}"
