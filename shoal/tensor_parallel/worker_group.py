"""The processes of the other ranks, as rank 0 sees them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from shoal.errors import DeviceLostError, InternalError
from shoal.processes import Exited, WorkerProcess, WorkerProcesses
from shoal.tensor_parallel.commands import Answer, Command, Free, Outcome

_NOTICE_SECONDS = 5.0
"""How long the end of a process may take to become known."""

_ALL_SECONDS = 0.3
"""How long after the first end others are waited for, one of which may be the cause."""


@dataclass
class _Ends:
    """How processes ended; shared with the threads that wait for that."""

    exited: dict[int, Exited] = field(default_factory=dict)
    """By rank."""
    noticed: threading.Event = field(default_factory=threading.Event)
    closing: bool = False


class WorkerGroup:
    """Ranks 1 to N - 1, which do what they are told, all the same; any may die at any time.

    Their processes end with `close`, with this object and with this process.
    """

    def __init__(
        self,
        world: int,
        *,
        patience: float,
        abort: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        """
        Args:
            world: N, ranks with this one.
            patience: seconds after which one that does not answer is given up.
            abort: called from another thread when one died: ends exchanges that wait for it.
            leave: called at the end, to leave the process group.
        """
        self.processes = WorkerProcesses(captured=True, patience=patience)
        self._world, self._patience, self._abort = world, patience, abort
        self._ends = _Ends()
        self._freed: list[int] = []
        self._errors: dict[int, str] = {}
        """The error of each rank that told one before it ended."""
        self._broken: str | None = None
        self._closed = weakref.finalize(self, _close, self.processes, self._ends, leave)

    def start(self, function: Callable[..., int], *arguments: object, threads: int) -> None:
        """Start the processes, each with `function(parent, rank, *arguments)`.

        Args:
            threads: of the CPU, for each.

        Raises:
            OSError: the system starts no process.
        """
        for rank in range(1, self._world):
            process = self.processes.start(rank, function, rank, *arguments, threads=threads)
            watch = (rank, process, self._ends, self._abort)
            threading.Thread(target=_watch, args=watch, daemon=True).start()

    def tell(self, command: Command) -> None:
        """Give every rank a command.

        Raises:
            DeviceLostError: one of them is gone.
        """
        freed = []
        while self._freed:  # It grows whenever the collector finds a layer.
            freed.append(self._freed.pop())
        self.check()
        try:
            if freed:
                self.processes.broadcast(Free(tuple(freed)))
            self.processes.broadcast(command)
        except OSError as error:
            raise self.lost(str(error)) from error

    def free(self, number: int) -> None:
        """Have the memory of a layer given back before the next command."""
        self._freed.append(number)

    def agree(self) -> None:
        """Wait until every rank has done what it was told last.

        Raises:
            torch.OutOfMemoryError, RuntimeError: one of them failed at it, and goes on.
            DeviceLostError: one of them is gone.
        """
        waiting = set(range(1, self._world))
        failures: list[tuple[int, Answer]] = []
        while waiting:
            answers = list(self.processes.events(self._patience))
            if not answers:
                numbers = ", ".join(str(rank + 1) for rank in sorted(waiting))
                raise self.lost(f"process {numbers} did not answer for {self._patience:.0f} s")
            for rank, message in answers:
                self._note(rank, message)
            for rank, message in answers:
                waiting.discard(rank)
                match message:
                    case Answer(Outcome.done):
                        pass
                    case Answer(Outcome.failed | Outcome.out_of_memory):
                        failures.append((rank, message))
                    case Answer(Outcome.lost, text):
                        raise self.lost(f"{self._name(rank)} failed with {text}")
                    case Exited(reason=reason):
                        raise self.lost(f"{self._name(rank)} {reason}")
                    case _:
                        raise InternalError(f"{self._name(rank)} answered {message}")
        self.check()
        for rank, answer in failures:
            kind = torch.OutOfMemoryError if answer.outcome is Outcome.out_of_memory else None
            raise (kind or RuntimeError)(f"{self._name(rank)}: {answer.text}")

    def check(self) -> None:
        """Raise `DeviceLostError` if a process is gone, as far as is known."""
        if self._ends.exited:
            raise self.lost("")
        if self._broken is not None:
            raise DeviceLostError(self._broken)

    def lost(self, symptom: str) -> DeviceLostError:
        """The error that ends the run, once something showed that a process is gone.

        Args:
            symptom: what showed it; used where the processes themselves give no reason.
        """
        if self._broken is None:
            cause = self.cause() or symptom
            self._broken = (
                f"one of the {self._world} processes that hold the model is gone: {cause}. "
                "What has finished is saved; run the same command again to go on."
            )
            self.close()
        return DeviceLostError(self._broken)

    def close(self) -> None:
        """End the processes; harmless if they have ended."""
        if self._broken is None:
            self._broken = "this model is closed: make it anew."
        self._closed()

    def cause(self) -> str | None:
        """Why a process is gone, once one is: the first that was killed, else that failed."""
        if not self._ends.noticed.wait(_NOTICE_SECONDS):
            return None
        end = time.monotonic() + _ALL_SECONDS
        while len(self._ends.exited) < self._world - 1 and time.monotonic() < end:
            time.sleep(0.01)
        while said := list(self.processes.events(0.0)):
            for rank, message in said:
                self._note(rank, message)
        exited = dict(self._ends.exited)
        # One that was killed takes the others with it, which then fail on their connections.
        rank = min(exited, key=lambda rank: (exited[rank].code >= 0, rank))
        error = self._errors.get(rank)
        how = exited[rank].reason if error is None else f"failed with {error}"
        return f"{self._name(rank)} {how}"

    def _note(self, rank: int, message: object) -> None:
        """Keep what a rank that cannot go on says."""
        match message:
            case Answer(Outcome.lost, text):
                self._errors[rank] = text

    def _name(self, rank: int) -> str:
        return f"process {rank + 1} of {self._world}"


def _watch(rank: int, process: WorkerProcess, ends: _Ends, abort: Callable[[], None]) -> None:
    """Notice the end of a process, also while this one waits for a device."""
    exited = process.exited()
    if ends.closing:
        return
    ends.exited[rank] = exited
    ends.noticed.set()
    abort()


def _close(processes: WorkerProcesses, ends: _Ends, leave: Callable[[], None]) -> None:
    ends.closing = True
    processes.stop()
    leave()
