"""Runs batches in the engine's process, which is started again if it ends."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from shoal.processes import Exited, WorkerProcesses
from shoal.server.dispatch.gathering import Gathering
from shoal.server.live import EngineFigures, Live
from shoal.server.messages import (
    BatchRefused,
    Done,
    EngineReady,
    FromEngine,
    LoadFailed,
    NotNow,
    Progress,
    RunBatches,
    RunEnded,
    Stop,
    Stopped,
    Telemetry,
)
from shoal.server.server_options import Served
from shoal.server.store import Batches, Setbacks
from shoal.server.workers import children

POLL_SECONDS = 0.1
STOP_SECONDS = 60.0
"""How long a graceful stop waits for the iteration under way."""
RETRY_SECONDS = 5.0
"""After which a batch is tried again that could not go on, or an engine that ended."""
_ENGINE = 0
_ITSELF = "the runner"

_log = logging.getLogger(__name__)


class Runner:
    """A thread that owns the engine's process, and the batches that run in it."""

    def __init__(
        self,
        batches: Batches,
        served: Served,
        gathering: Gathering,
        on_fatal: Callable[[str], None],
    ) -> None:
        """`on_fatal` is told why the model cannot be loaded; nothing runs then."""
        self._batches, self._served, self._gathering = batches, served, gathering
        self._on_fatal = on_fatal
        self._processes = WorkerProcesses()
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._inbox: deque[FromEngine | Exited] = deque()
        """What is not settled yet: a database that refuses is asked again."""
        self._running = False
        """Whether a run is under way, from `RunBatches` to `RunEnded`."""
        self._held: dict[str, int] = {}
        """The batches whose jobs are open there, with the requests each had done before."""
        self._stop_sent: set[str] = set()
        self._not_before = 0.0
        self._setbacks = Setbacks()
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
            return id in self._held

    def _work(self) -> None:
        self._start_engine()
        deadline = None
        while True:
            if self._stopping.is_set():
                deadline = deadline or time.monotonic() + STOP_SECONDS
                if not self._running or time.monotonic() > deadline:
                    return
            try:
                self._inbox += [message for _, message in self._processes.events(POLL_SECONDS)]
                while self._inbox:
                    self._take(self._inbox[0])
                    self._inbox.popleft()
                self._look_after()
                self._setbacks.none(_ITSELF)
            except Exception as error:  # a database that is locked or full: later it may not be
                self._setbacks.met(_ITSELF, error)
                time.sleep(1.0)

    def _start_engine(self) -> None:
        self.figures.state = "loading"
        self._processes.start(_ENGINE, children.engine, self._served, threads=None)

    def _look_after(self) -> None:
        """Begin what can begin, stop what must stop."""
        if self._running:
            going = self._held.keys() - self._stop_sent
            if going:
                all_stop = self._stopping.is_set()
                for id in sorted(going) if all_stop else self._batches.to_stop(going):
                    self._stop_sent.add(id)
                    self._send(Stop(id))
        elif not self._stopping.is_set() and time.monotonic() >= self._not_before:
            if _ENGINE not in self._processes.running:
                self._start_engine()
            elif self.figures.state == "ready":
                self._begin_next()

    def _begin_next(self) -> None:
        with self._lock:  # the clerk asks `holds` after it has seen a status
            batches = self._gathering.choose(self._batches.to_run(), time.monotonic())
            if not batches:
                return
            self._held = {batch.id: batch.completed + batch.failed for batch in batches}
            self._stop_sent, self._running = set(), True
        for batch in batches:
            if _named(batch.id) not in self._setbacks:
                _log.info("batch %s begins", batch.id, extra={"batch": batch.id})
        tasks = [self._batches.task(batch) for batch in batches]
        for task in tasks:
            task.output.parent.mkdir(parents=True, exist_ok=True)
        self.live.begin(tuple(batch.id for batch in batches))
        self._send(RunBatches(tasks, self._batches.share_texts(batches)))

    def _send(self, message: RunBatches | Stop) -> None:
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
            case Progress(moved, tokens_per_second, kv_bytes):
                figures = self.figures
                figures.tokens_per_second, figures.kv_bytes = tokens_per_second, kv_bytes
                if moved:
                    self._batches.note(moved, self._held)
                for each in moved:
                    self._setbacks.none(_named(each.batch), batch=each.batch)
            case Telemetry():
                self.live.take(message)
            case RunEnded():
                self._run_ended(message)
            case Exited(_, reason):
                self._engine_ended(reason)
            case _:
                self._batch_ended(message)

    def _batch_ended(self, message: Done | Stopped | NotNow | BatchRefused) -> None:
        id = message.batch
        match message:
            case Done(_, completed, failed, usage):
                self._batches.end(id, completed, failed, usage, expired=False)
                _log.info("batch %s is done", id, extra={"batch": id})
            case Stopped():
                _log.info("batch %s was stopped", id, extra={"batch": id})
            case NotNow(_, reason):
                self._setbacks.waits(_named(id), reason, batch=id)
                self._not_before = time.monotonic() + RETRY_SECONDS
            case BatchRefused(_, error, reason):
                _log.error("batch %s fails: %s", id, reason, extra={"batch": id})
                self._batches.fail(id, [error])
        if not isinstance(message, NotNow):
            self._setbacks.forget(_named(id))
        with self._lock:
            self._held.pop(id, None)
        self.live.leave(id)

    def _run_ended(self, run: RunEnded) -> None:
        if run.batches > 1:
            _log.info(
                "%d batches ran together: %d prompt tokens, of which %d were computed",
                run.batches,
                run.prompt_tokens,
                run.computed_tokens,
            )
        self._release()

    def _engine_ended(self, reason: str) -> None:
        self.figures.state = "loading"
        if self._held:
            self._batches.stalled(self._held)
        else:
            self._not_before = time.monotonic() + RETRY_SECONDS
        self.figures.restarts += 1
        _log.error("the engine's process %s; it is started again", reason)
        self._release()

    def _release(self) -> None:
        with self._lock:
            self._held, self._running = {}, False
        self.figures.tokens_per_second, self.figures.kv_bytes = 0.0, 0
        self.live.end()


def _named(batch: str) -> str:
    return f"batch {batch}"
