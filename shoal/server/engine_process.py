"""The process with the model: it runs one batch after the other, each a job with its journal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.devices import EngineProtocol, RunProtocol, make_engine
from shoal.errors import InternalError, Interrupted, OutputLockedError, OutputWriteError, ShoalError
from shoal.jobs import JobSpec, run_job
from shoal.model.description import ModelDescription
from shoal.processes import Parent
from shoal.progress import ProgressState, QuietReporter
from shoal.report.excerpts import Decode
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
from shoal.server.forest_file import write_forest
from shoal.server.logs import set_up_log
from shoal.server.server_options import Served
from shoal.server.telemetry import Telemeter
from shoal.server.usage import usage_of
from shoal.types import RequestTable

PROGRESS_SECONDS = 0.1
"""Between two reports, at least."""

_log = logging.getLogger(__name__)


def main(parent: Parent, served: Served) -> int:
    """Load the model, then run what the server sends; returns when the model cannot be loaded."""
    set_up_log(served.log_format, "engine")
    try:
        description = ModelDescription.load(served.model, served.options)
        tokenizer = description.tokenizer
        kept = KeptEngine(
            make_engine(description, served.options), lambda ids: str(tokenizer.decode(list(ids)))
        )
    except ShoalError as error:
        parent.send(LoadFailed(str(error)))
        return 0
    machine = kept.machine
    parent.send(EngineReady(int(machine.kv_tokens * machine.costs.kv_bytes)))
    while True:
        message = parent.receive()
        if isinstance(message, RunBatch):
            parent.send(_run(message, served, kept, parent))


class KeptEngine:
    """An engine that runs many jobs: a job's `close` leaves it as it is.

    Attributes:
        decode: text of token ids.
        on_run: is told of each run before it begins.
    """

    def __init__(self, engine: EngineProtocol, decode: Decode) -> None:
        self._engine, self.decode = engine, decode
        self.on_run: Callable[[RequestTable, RunProtocol], None] | None = None

    @property
    def machine(self) -> Machine:
        """See `EngineProtocol`."""
        return self._engine.machine

    def run(self, table: RequestTable) -> RunProtocol:
        """See `EngineProtocol`."""
        run = self._engine.run(table)
        if self.on_run is not None:
            self.on_run(table, run)
        return run

    def close(self) -> None:
        """Nothing: the next job takes the same engine."""

    def factory(self, description: ModelDescription, options: EngineOptions) -> EngineProtocol:
        """What `run_job` makes its engine with."""
        if description.pooling is not None:
            raise InternalError("a batch for vectors came to an engine that answers")
        return self


class _Teller(QuietReporter):
    """Tells the server how far a batch is."""

    def __init__(self, batch: str, send: Callable[[FromEngine], None]) -> None:
        self._batch, self._send, self._next = batch, send, 0.0
        self.telemeter = Telemeter(send)

    def update(self, state: ProgressState) -> None:
        """Tell it, unless it was told just now."""
        self.telemeter.update(state)
        if state.done < state.total and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PROGRESS_SECONDS
        self._send(
            Progress(
                self._batch,
                state.done,
                state.failed,
                state.tokens,
                state.tokens_per_second,
                state.kv_bytes,
            )
        )

    def __exit__(self, *exception: object) -> None:
        self.telemeter.ended()


def _run(task: RunBatch, served: Served, kept: KeptEngine, parent: Parent) -> FromEngine:
    def asked() -> bool:
        message = parent.poll()
        return isinstance(message, Stop) and message.batch == task.batch

    teller = _Teller(task.batch, parent.send)

    def begun(table: RequestTable, run: RunProtocol) -> None:
        write_forest(task.output.parent, table, run, kept.decode)
        teller.telemeter.began(run)

    kept.on_run = begun
    spec = JobSpec(
        input=task.input,
        output=task.output,
        errors=task.errors,
        model=served.model,
        options=served.options,
        served_names=served.names,
    )
    try:
        result = run_job(spec, engine=kept.factory, reporter=teller, asked=asked)
    except Interrupted:
        return Stopped(task.batch)
    except (OutputLockedError, OutputWriteError) as error:
        return NotNow(task.batch, str(error))
    except ShoalError as error:
        return BatchRefused(task.batch, str(error))
    except OSError as error:
        return NotNow(task.batch, str(error))
    counts = result.summary.requests
    return Done(task.batch, counts.succeeded, counts.failed, usage_of(task.output))
