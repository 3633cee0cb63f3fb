"""The process of one device, seen from the front."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import torch

from shoal.devices.messages import Died, FromWorker, ToWorker
from shoal.devices.wire import receive, send
from shoal.devices.worker import EXIT_LOST
from shoal.machine.calibration_cache import device_threads

_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[4]); "
    "from shoal.devices.worker import main; "
    "main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
)
_GRACE_SECONDS = 2.0


class WorkerProcess:
    """A worker that can be started, spoken to and ended; and started again.

    It is a fresh interpreter in a process group of its own: it does not run the caller's main
    module again, and the terminal's Ctrl-C does not reach it. It ends when the front does, because
    then its pipe closes.
    """

    def __init__(self, name: str, environment: Mapping[str, str], threads: int) -> None:
        """`environment`: variables besides those of this process."""
        self.name = name
        self._environment, self._threads = dict(environment), threads
        self._process: subprocess.Popen[bytes] | None = None
        self.connection: Connection | None = None

    @property
    def alive(self) -> bool:
        """Whether it was started, and its end has not been seen."""
        return self.connection is not None

    @property
    def pid(self) -> int | None:
        """Of the process that was started last."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process; it says `Hello` when it can hear."""
        self.close()
        ours, theirs = Pipe()
        path = json.dumps([entry for entry in sys.path if isinstance(entry, str)])
        fd = str(theirs.fileno())
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, fd, str(self._threads), self.name, path],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a library prints there must not get among our own output
            env={**os.environ, **self._environment},
            process_group=0,
        )
        theirs.close()
        self.connection = ours

    def send(self, message: ToWorker) -> None:
        """Send a message. If the process is gone that is not told here, but by `received`."""
        if self.connection is None:
            return
        with suppress(OSError):
            send(self.connection, message)

    def received(self) -> Iterator[FromWorker]:
        """The messages that have come; `Died` is the last there is."""
        while self.connection is not None:
            try:
                if not self.connection.poll():
                    return
                yield receive(self.connection)
            except (EOFError, OSError):
                yield Died(self._bury())

    def close(self) -> None:
        """End the process, wherever it is. Idempotent."""
        if self.connection is not None:
            self._bury()

    def _bury(self) -> str:
        """Close the pipe, wait for the process to end, and say how it ended."""
        if self.connection is None or self._process is None:
            return "was never started"
        self.connection.close()
        self.connection = None
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return ended_how(self._process.returncode)


def ended_how(code: int) -> str:
    """An exit code in words."""
    if code == EXIT_LOST:
        return "lost its device"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", as the kernel does where memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"


def worker_processes(device: torch.device, count: int) -> list[WorkerProcess]:
    """A worker for each device; none is started. Each has its share of torch's CPU threads."""
    threads = device_threads(count)
    return [
        WorkerProcess(
            f"{device.type}:{number}",
            worker_environment(device.type, number, threads, os.environ),
            threads,
        )
        for number in range(count)
    ]


def worker_environment(
    kind: str, number: int, threads: int, environment: Mapping[str, str]
) -> dict[str, str]:
    """The variables that give a worker its threads, and the one CUDA device that it sees.

    Args:
        kind: "cpu" or "cuda".
        number: of the device, among those that the front sees.
        environment: of the front.
    """
    variables = {"OMP_NUM_THREADS": str(threads)}
    if kind == "cuda":
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        devices = None if visible is None else [entry.strip() for entry in visible.split(",")]
        variables["CUDA_VISIBLE_DEVICES"] = str(number) if devices is None else devices[number]
    return variables
