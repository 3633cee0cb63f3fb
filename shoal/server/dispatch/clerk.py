"""What happens to a batch outside the engine: its file is checked, its end is written, files go."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from shoal.processes import Exited, WorkerProcesses
from shoal.server.dispatch.runner import Runner
from shoal.server.messages import (
    CannotEnd,
    CheckFile,
    Done,
    FileChecked,
    FromClerk,
    GiveUp,
    LoadFailed,
    NotNow,
    ToClerk,
)
from shoal.server.server_options import Served
from shoal.server.store import Batches, Files, Setbacks, StoredBatch, now, states
from shoal.server.workers import children

POLL_SECONDS = 0.1
SWEEP_SECONDS = 30.0
RETRY_SECONDS = 0.5
"""After which a batch is tried again whose files could not be written."""
_CLERK = 0
_ITSELF = "the clerk"
_EXPIRED = "batch_expired"

_log = logging.getLogger(__name__)


class Clerk:
    """A thread that has its process do one thing after another.

    Whatever that was doing when it, or the server, was killed, it does again.
    """

    def __init__(
        self,
        batches: Batches,
        files: Files,
        runner: Runner,
        served: Served,
        most_requests: int,
        on_fatal: Callable[[str], None],
    ) -> None:
        """`on_fatal` is told why the model cannot be used."""
        self._batches, self._files, self._runner = batches, files, runner
        self._served, self._most, self._on_fatal = served, most_requests, on_fatal
        self._processes = WorkerProcesses()
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="clerk", daemon=True)
        self._sweep_at = self._not_before = 0.0
        self._busy: ToClerk | None = None
        """What the process is doing."""
        self._answers: list[FromClerk | Exited] = []
        """What is not settled yet: a database that refuses is asked again."""
        self._setbacks = Setbacks()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """Stop at once: what is under way is done again after the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._processes.stop()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._round()
                self._setbacks.none(_ITSELF)
            except Exception as error:  # a database that is locked or full: later it may not be
                self._setbacks.met(_ITSELF, error)
                self._stopping.wait(1.0)

    def _round(self) -> None:
        if _CLERK not in self._processes.running:
            self._start_process()
        if self._busy is None and not self._answers:
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
        waits = POLL_SECONDS if self._busy is not None else 0.0
        self._answers += [message for _, message in self._processes.events(waits)]
        while self._answers:
            self._take(self._answers[0])
            self._answers.pop(0)
        if self._busy is None and time.monotonic() >= self._not_before:
            self._begin_next()
        if time.monotonic() >= self._sweep_at:
            self._files.sweep()
            self._sweep_at = time.monotonic() + SWEEP_SECONDS

    def _start_process(self) -> None:
        self._processes.start(_CLERK, children.clerk, self._served, threads=1)

    def _begin_next(self) -> None:
        for batch in self._batches.for_the_clerk():
            task = self._task(batch)
            if task is not None:
                self._busy = task
                try:
                    self._processes.send(_CLERK, task)
                except OSError:
                    _log.warning("the clerk's process is gone")  # `Exited` comes with the events
                return

    def _task(self, batch: StoredBatch) -> ToClerk | None:
        if batch.status == states.VALIDATING:
            path = self._files.root / batch.input_path
            return CheckFile(batch.id, path, batch.endpoint, self._most)
        if self._runner.holds(batch.id):
            return None  # it is stopped first
        if batch.status == states.CANCELLING:
            code = "batch_cancelled"
        else:
            code = _EXPIRED if batch.expires_at <= now() else "engine_failed"
        return GiveUp(self._batches.task(batch), code)

    def _take(self, message: FromClerk | Exited) -> None:
        match message:
            case FileChecked():
                self._checked(message)
            case Done(id, completed, failed, usage):
                expired = isinstance(self._busy, GiveUp) and self._busy.code == _EXPIRED
                self._batches.end(id, completed, failed, usage, expired=expired)
                self._setbacks.forget(f"the end of batch {id}")
            case NotNow(id, reason):
                self._setbacks.waits(f"the end of batch {id}", reason, batch=id)
                self._not_before = time.monotonic() + RETRY_SECONDS
            case CannotEnd(id, reason):
                _log.error("batch %s: %s", id, reason, extra={"batch": id})
                self._batches.abandon(id)
            case LoadFailed(reason):
                self._on_fatal(reason)
            case Exited(_, reason):
                _log.error("the clerk's process %s; it is started again", reason)
                self._not_before = time.monotonic() + RETRY_SECONDS
        self._busy = None

    def _checked(self, check: FileChecked) -> None:
        id = check.batch
        if check.errors:
            self._batches.change(id, (states.VALIDATING,), model=check.model)
            self._batches.fail(id, list(check.errors))
            return
        counts = {"total": check.requests, "model": check.model}
        begun = {"status": states.IN_PROGRESS, "in_progress_at": now()}
        if not self._batches.change(id, (states.VALIDATING,), **counts, **begun):
            self._batches.change(id, (states.CANCELLING,), **counts)
