"""The other processes of a model, as the first one sees them."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait

import torch

from shoal.errors import DeviceLostError
from shoal.tensor_parallel.commands import Free, Message, Stop, encode
from shoal.tensor_parallel.replies import Answer, Outcome
from shoal.tensor_parallel.workers import Worker, how_it_ended

_GRACE_SECONDS = 5.0
"""How long a process may take to end by itself, or one's end to become known."""

_ALL_SECONDS = 0.3
"""How long after the first end others are waited for, one of which may be the cause."""


@dataclass
class _Fate:
    """What has become of the processes; shared with the threads that watch them."""

    world: int
    ended: dict[int, str] = field(default_factory=dict)
    """How each process that ended did so, by rank."""
    noticed: threading.Event = field(default_factory=threading.Event)
    closing: bool = False


class Followers:
    """Processes that do what they are told, all the same; any of them may die at any time.

    They end with `close`, with this object and with this process.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        patience: float,
        abort: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        """
        Args:
            workers: the processes, which just started.
            patience: seconds after which one that does not answer is given up.
            abort: called from another thread when one died: ends exchanges that wait for it.
            leave: called at the end, to leave the process group.
        """
        self._workers = list(workers)
        self._patience = patience
        self._fate = _Fate(len(workers) + 1)
        self._freed: list[int] = []
        self._last_words: dict[int, str] = {}
        """The error of each process that told one before it ended, by rank."""
        self._broken: str | None = None
        for worker in workers:
            threading.Thread(target=_watch, args=(worker, self._fate, abort), daemon=True).start()
        self._closed = weakref.finalize(self, _close, self._workers, self._fate, leave)

    def send(self, data: bytes) -> None:
        """Send bytes to every process.

        Raises:
            DeviceLostError: one of them is gone.
        """
        self.check()
        try:
            for worker in self._workers:
                worker.control.send_bytes(data)
        except OSError as error:
            raise self.lost(str(error)) from error

    def tell(self, message: Message) -> None:
        """Give every process an order; see `send`."""
        freed = []
        while self._freed:  # It grows whenever the collector finds a layer.
            freed.append(self._freed.pop())
        if freed:
            self.send(encode(Free(tuple(freed))))
        self.send(encode(message))

    def free(self, number: int) -> None:
        """Have the memory of a layer given back before the next order."""
        self._freed.append(number)

    def agree(self) -> None:
        """Wait until every process has done what it was told last.

        Raises:
            torch.OutOfMemoryError, RuntimeError: one of them failed at it, and goes on.
            DeviceLostError: one of them is gone.
        """
        waiting = {worker.control: worker for worker in self._workers}
        failures: list[tuple[Worker, Answer]] = []
        while waiting:
            ready = wait(list(waiting), self._patience)
            if not ready:
                ranks = ", ".join(str(worker.rank + 1) for worker in waiting.values())
                raise self.lost(f"process {ranks} did not answer for {self._patience:.0f} s")
            for control in ready:
                worker = waiting.pop(control)  # type: ignore[call-overload]  # one of its keys
                answer = self._answer(worker)
                if answer.outcome is not Outcome.done:
                    failures.append((worker, answer))
        self.check()
        for worker, answer in failures:
            kind = torch.OutOfMemoryError if answer.outcome is Outcome.out_of_memory else None
            raise (kind or RuntimeError)(f"{self._name(worker)}: {answer.text}")

    def check(self) -> None:
        """Raise `DeviceLostError` if a process is gone, as far as is known."""
        if self._fate.ended:
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
                f"one of the {self._fate.world} processes that hold the model is gone: {cause}. "
                "What has finished is saved; run the same command again to go on."
            )
            self.close()
        return DeviceLostError(self._broken)

    def close(self) -> None:
        """End the processes; harmless if they have ended."""
        if self._broken is None:
            self._broken = "this model is closed: make it anew."
        self._closed()

    def _answer(self, worker: Worker) -> Answer:
        try:
            answer = Answer.decode(worker.control.recv_bytes())
        except (EOFError, OSError) as error:
            raise self.lost(f"{self._name(worker)} closed its connection") from error
        if answer.outcome is Outcome.lost:
            self._last_words[worker.rank] = answer.text
            raise self.lost(f"{self._name(worker)} failed with {answer.text}")
        return answer

    def cause(self) -> str | None:
        """Why a process is gone, once one is: the first that was killed, else that failed."""
        if not self._fate.noticed.wait(_GRACE_SECONDS):
            return None
        end = time.monotonic() + _ALL_SECONDS
        while len(self._fate.ended) < len(self._workers) and time.monotonic() < end:
            time.sleep(0.01)
        ended = dict(self._fate.ended)
        # One that was killed takes the others with it, which then fail on their connections.
        rank = min(ended, key=lambda rank: ("ended by" not in ended[rank], rank))
        self._listen(self._workers[rank - 1])
        error = self._last_words.get(rank)
        how = ended[rank] if error is None else f"failed with {error}"
        return f"process {rank + 1} of {self._fate.world} {how}"

    def _listen(self, worker: Worker) -> None:
        """Take what a process that has ended told before."""
        with contextlib.suppress(EOFError, OSError):
            while worker.control.poll():
                answer = Answer.decode(worker.control.recv_bytes())
                if answer.outcome is Outcome.lost:
                    self._last_words[worker.rank] = answer.text

    def _name(self, worker: Worker) -> str:
        return f"process {worker.rank + 1} of {self._fate.world}"


def _watch(worker: Worker, fate: _Fate, abort: Callable[[], None]) -> None:
    """Notice the end of a process."""
    how = how_it_ended(worker.process.wait())
    if fate.closing:
        return
    words = worker.last_words()
    fate.ended[worker.rank] = f"{how}: {words}" if words else how
    fate.noticed.set()
    abort()


def _close(workers: list[Worker], fate: _Fate, leave: Callable[[], None]) -> None:
    fate.closing = True
    for worker in workers:
        with contextlib.suppress(OSError):
            worker.control.send_bytes(encode(Stop()))
        worker.let_go()
    for worker in workers:
        try:
            worker.process.wait(_GRACE_SECONDS)
        except Exception:
            worker.process.kill()
    leave()
