"""The process with the model: it runs batches, each a job with its journal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from shoal.devices import SharedRun
from shoal.errors import (
    DeviceLostError,
    Interrupted,
    ModelLoadError,
    OutputLockedError,
    OutputWriteError,
    ShoalError,
    UnsupportedModelError,
)
from shoal.jobs import JobOfSeveral, JobResult, JobSpec, Outcome, run_together
from shoal.processes import Parent
from shoal.progress import ProgressState, QuietReporter
from shoal.report.excerpts import decoder
from shoal.server.logs import set_up_log
from shoal.server.messages import (
    BatchProgress,
    BatchRefused,
    BatchTask,
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
    not_runnable,
    unsupported_endpoint,
)
from shoal.server.server_options import Served
from shoal.server.workers.forest_file import ForestFiles
from shoal.server.workers.kept_model import Descriptions, KeptEngine
from shoal.server.workers.telemeter import Telemeter
from shoal.server.workers.usage import usage_of
from shoal.types import RequestTable

PROGRESS_SECONDS = 0.2
"""Between two reports, at least."""
NICENESS = 5
"""Of this process: the server, which needs little, answers at once."""
EXIT_LOST = 75


def main(parent: Parent, served: Served) -> int:
    """Load the model, then run what the server sends; returns when the model cannot be loaded."""
    set_up_log(served.log_format, "engine")
    os.nice(NICENESS)
    try:
        descriptions = Descriptions(served)
        kept = KeptEngine(descriptions, served.options)
    except ShoalError as error:
        parent.send(LoadFailed(str(error)))
        return 0
    parent.send(EngineReady(kept.kv_bytes))
    pictures = ForestFiles()
    while True:
        message = parent.receive()  # a `Stop` may come after the batch's end
        if isinstance(message, RunBatches):
            _run(message, served, descriptions, kept, pictures, parent)


class _Teller:
    """Tells the server how far the batches of a run are, not too often."""

    def __init__(self, send: Callable[[FromEngine], None], telemeter: Telemeter) -> None:
        self._send, self._next, self._telemeter = send, 0.0, telemeter
        self._moved: dict[str, BatchProgress] = {}
        self._told: dict[str, BatchProgress] = {}

    def update(self, batch: str, state: ProgressState) -> None:
        """A batch is so far."""
        self._telemeter.update(state)
        now = BatchProgress(batch, state.done, state.failed)
        if self._told.get(batch) != now:
            self._moved[batch] = now
        if time.monotonic() >= self._next or (batch in self._moved and state.done == state.total):
            self._next = time.monotonic() + PROGRESS_SECONDS
            moved = list(self._moved.values())
            self._send(Progress(moved, state.tokens_per_second, state.kv_bytes))
            self._told |= self._moved
            self._moved.clear()


class _BatchReporter(QuietReporter):
    """How far one batch is."""

    def __init__(self, batch: str, teller: _Teller) -> None:
        self._batch, self._teller = batch, teller

    def update(self, state: ProgressState) -> None:
        """Pass it on."""
        self._teller.update(self._batch, state)


def _run(
    message: RunBatches,
    served: Served,
    descriptions: Descriptions,
    kept: KeptEngine,
    pictures: ForestFiles,
    parent: Parent,
) -> None:
    tasks, stopped = message.tasks, set[str]()
    telemeter = Telemeter(parent.send)
    teller = _Teller(parent.send, telemeter)

    def asked(batch: str) -> bool:
        while (said := parent.poll()) is not None:
            if isinstance(said, Stop):
                stopped.add(said.batch)
        return batch in stopped

    def ended(number: int, outcome: Outcome) -> None:
        if isinstance(outcome, DeviceLostError):
            raise SystemExit(EXIT_LOST) from outcome  # a new process may have it again
        parent.send(_told(tasks[number], outcome))

    def planned(table: RequestTable, run: SharedRun) -> SharedRun:
        folders = [task.output.parent for task in tasks]
        decode = decoder(descriptions.usual.tokenizer) if message.texts_shown else None
        pictures.write(folders, table, run, decode)
        return telemeter.began(run, table)

    kept.on_run = planned
    jobs = [
        JobOfSeveral(
            job_spec(task, served), _BatchReporter(task.batch, teller), partial(asked, task.batch)
        )
        for task in tasks
    ]
    summary = run_together(jobs, kept.lend, descriptions, ended)
    telemeter.ended()
    tokens = summary.tokens
    parent.send(RunEnded(len(tasks), tokens.prompt, tokens.prompt_computed))


def job_spec(task: BatchTask, served: Served) -> JobSpec:
    """The job that a batch is."""
    return JobSpec(
        input=task.input,
        output=task.output,
        errors=task.errors,
        model=served.model,
        options=served.options,
        served_names=served.names,
        quiet=True,
    )


def _told(task: BatchTask, outcome: Outcome) -> FromEngine:
    match outcome:
        case JobResult():
            counts = outcome.summary.requests
            return Done(task.batch, counts.succeeded, counts.failed, usage_of(task.output))
        case Interrupted():
            return Stopped(task.batch)
        case OutputLockedError() | OutputWriteError() | OSError():
            return NotNow(task.batch, str(outcome))
        case ModelLoadError() | UnsupportedModelError():  # it is loaded, but for another kind
            return BatchRefused(task.batch, unsupported_endpoint(), str(outcome))
        case _:
            return BatchRefused(task.batch, not_runnable(), str(outcome))
