"""Runs batches one after the other, in the engine's process, which is started again if it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from shoal.machine.calibration_cache import device_threads
from shoal.processes import Exited, WorkerProcesses
from shoal.server import engine_process, states
from shoal.server.batches import Batches
from shoal.server.database import StoredBatch
from shoal.server.engine_messages import (
    BatchRefused,
    Done,
    EngineReady,
    FromEngine,
    LoadFailed,
    NotNow,
    Progress,
    RunBatch,
    Stop,
    Stopped,
)
from shoal.server.files import Files
from shoal.server.live import Live
from shoal.server.server_options import Served
from shoal.server.telemetry import Telemetry
from shoal.server.wall_clock import now

POLL_SECONDS = 0.1
STOP_SECONDS = 60.0
"""How long a graceful stop waits for the iteration under way."""
RETRY_SECONDS = 5.0
"""After which a batch is tried again that could not go on, or an engine that ended."""
_ENGINE = 0

_log = logging.getLogger(__name__)


@dataclass
class EngineFigures:
    """What the engine is doing; `state` is `loading` or `ready`."""

    state: str = "loading"
    restarts: int = 0
    tokens_per_second: float = 0.0
    kv_bytes: int = 0
    kv_pool_bytes: int = 0


class Runner:
    """A thread that owns the engine's process, and the batch that runs in it."""

    def __init__(
        self, batches: Batches, files: Files, served: Served, on_fatal: Callable[[str], None]
    ) -> None:
        """`on_fatal` is told why the model cannot be loaded; nothing runs then."""
        self._batches, self._files, self._served = batches, files, served
        self._on_fatal = on_fatal
        self._processes = WorkerProcesses()
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._inbox: deque[FromEngine | Exited] = deque()
        """What is not settled yet: a database that refuses is asked again."""
        self._current: str | None = None
        self._stop_sent = False
        self._done_before = 0
        self._told = ("", 0)
        self._not_before = 0.0
        self.figures, self.live = EngineFigures(), Live()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the iteration under way; batches go on when the server is started again."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS + 10)
        self._processes.stop()

    def holds(self, id: str) -> bool:
        """Whether a batch's job is open in the engine's process."""
        with self._lock:
            return self._current == id

    def _work(self) -> None:
        self._start_engine()
        deadline = None
        while True:
            if self._stopping.is_set():
                deadline = deadline or time.monotonic() + STOP_SECONDS
                if self._current is None or time.monotonic() > deadline:
                    return
            try:
                self._inbox += [message for _, message in self._processes.events(POLL_SECONDS)]
                while self._inbox:
                    self._take(self._inbox[0])
                    self._inbox.popleft()
                self._look_after()
            except Exception:  # a database that is locked or full: later it may not be
                _log.exception("the runner failed; it goes on")
                time.sleep(1.0)

    def _start_engine(self) -> None:
        self.figures.state = "loading"
        threads = device_threads(1)
        self._processes.start(_ENGINE, engine_process.main, self._served, threads=threads)

    def _look_after(self) -> None:
        """Begin what can begin, stop what must stop."""
        if self._current is not None:
            if not self._stop_sent and self._must_stop(self._current):
                self._stop_sent = True
                self._send(Stop(self._current))
        elif not self._stopping.is_set() and time.monotonic() >= self._not_before:
            if _ENGINE not in self._processes.running:
                self._start_engine()
            elif self.figures.state == "ready":
                self._begin_next()

    def _must_stop(self, id: str) -> bool:
        if self._stopping.is_set():
            return True
        batch = self._batches.find(id)
        return batch.status == states.CANCELLING or batch.expires_at <= now()

    def _begin_next(self) -> None:
        with self._lock:  # the clerk asks `holds` after it has seen a status
            batch = self._batches.next_to_run()
            if batch is None:
                return
            self._current, self._stop_sent = batch.id, False
            self._done_before = batch.completed + batch.failed
        _log.info("batch %s begins", batch.id, extra={"batch": batch.id})
        self.live.begin((batch.id,))
        self._send(self._task(batch))

    def _task(self, batch: StoredBatch) -> RunBatch:
        root = self._files.root
        output = root / self._batches.output_path(batch.id)
        output.parent.mkdir(parents=True, exist_ok=True)
        errors = root / self._batches.error_path(batch.id)
        return RunBatch(batch.id, root / batch.input_path, output, errors)

    def _send(self, message: RunBatch | Stop) -> None:
        try:
            self._processes.send(_ENGINE, message)
        except OSError:
            _log.warning("the engine's process is gone")  # its `Exited` comes with the events

    def _take(self, message: FromEngine | Exited) -> None:
        match message:
            case EngineReady(kv_bytes):
                self.figures.state, self.figures.kv_pool_bytes = "ready", kv_bytes
                _log.info("the engine is ready")
            case LoadFailed(reason):
                self._on_fatal(reason)
            case Progress():
                self._progress(message)
            case Telemetry():
                self.live.take(message)
            case Done(id, completed, failed, usage):
                self._batches.end(id, completed, failed, usage, expired=False)
                _log.info("batch %s is done", id, extra={"batch": id})
                self._release()
            case Stopped(id):
                _log.info("batch %s was stopped", id, extra={"batch": id})
                self._release()
            case NotNow(id, reason):
                _log.warning("batch %s waits: %s", id, reason, extra={"batch": id})
                self._not_before = time.monotonic() + RETRY_SECONDS
                self._release()
            case BatchRefused(id, reason):
                _log.error("batch %s fails: %s", id, reason, extra={"batch": id})
                self._batches.fail(id, [_refused()])
                self._release()
            case Exited(_, reason):
                self._engine_ended(reason)

    def _progress(self, told: Progress) -> None:
        figures = self.figures
        figures.tokens_per_second, figures.kv_bytes = told.tokens_per_second, told.kv_bytes
        if (told.batch, told.done) == self._told:
            return
        values = {"completed": told.done - told.failed, "failed": told.failed}
        if told.done > self._done_before:
            values["stalls"] = 0
        self._batches.change(told.batch, (*states.RUNNING, states.CANCELLING), **values)
        batch = self._batches.find(told.batch)
        if told.done == batch.total and batch.status == states.IN_PROGRESS:
            changed = {"status": states.FINALIZING, "finalizing_at": now()}
            self._batches.change(told.batch, (states.IN_PROGRESS,), **changed)
        self._told = (told.batch, told.done)

    def _engine_ended(self, reason: str) -> None:
        self.figures.state, id = "loading", self._current
        if id is not None:
            stalls = self._batches.find(id).stalls + 1
            self._batches.change(id, states.RUNNING, stalls=stalls)
        else:
            self._not_before = time.monotonic() + RETRY_SECONDS
        self.figures.restarts += 1
        _log.error("the engine's process %s; it is started again", reason)
        self._release()

    def _release(self) -> None:
        with self._lock:
            self._current = None
        self.figures.tokens_per_second, self.figures.kv_bytes = 0.0, 0
        self.live.end()


def _refused() -> dict[str, object]:
    message = "The batch cannot be run; the server's log says why."
    return {"code": "batch_not_runnable", "line": None, "message": message, "param": None}
