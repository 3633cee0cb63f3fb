"""Worker processes of this machine: start, send, events with a time limit, stop.

They end with the process that started them, whatever happens to it: each watches a pipe whose other
end only that process holds, and which the system closes when it dies.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from shoal.processes.spawn import how_it_ended, spawn
from shoal.processes.wire import Frames, decode, encode, receive_frames, send_frames

PATIENCE_SECONDS = 1800.0
"""How long a process that is alive may take no message or not answer: large models take minutes to
load, and not the same in each process."""
GRACE_SECONDS = 5.0
"""How long a process may take to end by itself."""
_TAIL_BYTES = 2000


@dataclass(frozen=True)
class Exited:
    """A process has ended.

    Attributes:
        code: its exit code, negative for a signal.
        reason: in words, with the last line it printed if its output was captured.
    """

    code: int
    reason: str


class WorkerProcess:
    """One process, running or ended."""

    def __init__(
        self, start: Frames, variables: Mapping[str, str], *, captured: bool, patience: float
    ) -> None:
        """Start it.

        Args:
            start: its first message.
            variables: of its environment, besides ours.
            captured: what it prints is kept to explain its end, and not shown.
            patience: seconds in which it has to take a message.
        """
        self.connection, theirs = Pipe()
        watched, self._lifeline = os.pipe()
        self._output = tempfile.TemporaryFile() if captured else None  # noqa: SIM115  as long as it
        self._patience = patience
        self._killed_because: str | None = None
        limit_waiting(self.connection, patience)
        try:
            self._process = spawn(theirs, watched, self._output, variables)
        except BaseException:
            self.let_go()
            raise
        finally:
            theirs.close()
            os.close(watched)
        self.pid = self._process.pid
        with suppress(OSError):  # of one that is gone already `receive` tells
            self.send(start)

    def send(self, frames: Frames) -> None:
        """Send an encoded message.

        Raises:
            OSError: the process is gone, or is killed because it did not take the message.
        """
        try:
            send_frames(self.connection, frames)
        except BlockingIOError:
            self.kill(f"took no message for {self._patience:.0f} s and was killed")
            raise

    def receive(self) -> Any:
        """Wait for a message; `Exited` is the last there is."""
        try:
            frames = receive_frames(self.connection)
        except (EOFError, OSError):
            self.let_go()
            self.end()
            return self.exited()
        return decode(frames)

    def let_go(self) -> None:
        """Close this end of everything: the process ends, if it has not yet. Idempotent."""
        if not self.connection.closed:
            self.connection.close()
            os.close(self._lifeline)

    def end(self) -> None:
        """Give a process that was let go some time to end, then kill it."""
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill(f"did not end in {GRACE_SECONDS:.0f} s and was killed")
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(GRACE_SECONDS)

    def kill(self, why: str) -> None:
        """SIGKILL; `why` is what became of it."""
        self._killed_because = self._killed_because or why
        self._process.kill()

    def exited(self) -> Exited:
        """Wait for its end; any thread may."""
        code = self._process.wait()
        reason, line = self._killed_because or how_it_ended(code), self._last_line()
        return Exited(code, f"{reason}: {line}" if line else reason)

    def _last_line(self) -> str:
        if self._output is None:
            return ""
        file = self._output.fileno()
        tail = os.pread(file, _TAIL_BYTES, max(0, os.fstat(file).st_size - _TAIL_BYTES))
        lines = tail.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


class WorkerProcesses:
    """Processes that each run a function, known by numbers. Any of them may end at any time.

    Attributes:
        running: those whose end `events` has not told.
    """

    def __init__(self, *, captured: bool = False, patience: float = PATIENCE_SECONDS) -> None:
        """See `WorkerProcess` for the arguments."""
        self.running: dict[int, WorkerProcess] = {}
        self._captured, self._patience = captured, patience

    def start(
        self,
        worker: int,
        function: Callable[..., int],
        *arguments: object,
        threads: int | None,
        variables: Mapping[str, str] | None = None,
    ) -> WorkerProcess:
        """Start a worker, or start it again.

        Args:
            function: of a module. It is called there with a `Parent` and the arguments, which are
                pickled, and returns the exit code.
            threads: on which the worker is to compute; None: as many as we would.
            variables: of its environment, besides ours.

        Raises:
            OSError: the system starts no process.
        """
        if worker in self.running:
            self.stop(worker)
        names = () if threads is None else ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        limits = dict.fromkeys(names, str(threads))
        self.running[worker] = WorkerProcess(
            encode((function, arguments)),
            {**limits, **(variables or {})},
            captured=self._captured,
            patience=self._patience,
        )
        return self.running[worker]

    def send(self, worker: int, message: object) -> None:
        """Send a message to a worker.

        Raises:
            OSError: it is gone; `events` tells how that came, unless it has.
        """
        if worker not in self.running:
            raise ProcessLookupError(f"worker {worker} does not run")
        self.running[worker].send(encode(message))

    def broadcast(self, message: object) -> None:
        """Send a message to all that run; see `send`."""
        frames = encode(message)
        for process in self.running.values():
            process.send(frames)

    def events(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """(worker, message) of each worker that has one, after waiting so long at most for one.

        If a worker has sent several, the next call gives the next. The last one is `Exited`.
        """
        by_pipe = {process.connection: (n, process) for n, process in self.running.items()}
        for pipe in wait(list(by_pipe), seconds):
            worker, process = by_pipe[pipe]  # type: ignore[index]  # one of its keys
            if process.connection.closed:
                continue  # It was stopped because of what another said.
            message = process.receive()
            if isinstance(message, Exited):
                del self.running[worker]
            yield worker, message

    def stop(self, *workers: int) -> None:
        """End some workers, or all if none is named, wherever they are. Idempotent."""
        ending = [self.running.pop(worker) for worker in workers or list(self.running)]
        for process in ending:
            process.let_go()
        for process in ending:
            process.end()


def limit_waiting(connection: Connection, seconds: float) -> None:
    """Have a message fail that comes to a halt so long, rather than wait for ever."""
    fraction, whole = math.modf(seconds)
    limit = struct.pack("ll", int(whole), int(fraction * 1e6))  # A timeval.
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, option, limit)
