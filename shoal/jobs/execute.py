"""One run of a job: read what is left, run it, put the files in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from shoal.config import EngineOptions
from shoal.costs import BLOCK_SIZE
from shoal.endpoints import SendsLines
from shoal.errors import InternalError
from shoal.jobs.collect import remaining_tokens
from shoal.jobs.open_job import OpenJob
from shoal.machine.capacity import stated_blocks
from shoal.model.description import ModelDescription
from shoal.progress import ProgressState
from shoal.results.unexecuted import Unexecuted
from shoal.types import RunSummary

if TYPE_CHECKING:
    # Whoever makes the engine imports it; planning a job needs none.
    from shoal.devices import EngineProtocol, RunProtocol

EngineFactory: TypeAlias = "Callable[[ModelDescription, EngineOptions], EngineProtocol]"
"""Makes the engine of a run, which closes it."""


def kv_capacity_tokens(description: ModelDescription, options: EngineOptions) -> int | None:
    """Tokens of KV that the pool will hold, in whole blocks.

    None: what is left on the device is measured, so the engine knows once it is made.
    """
    blocks = stated_blocks(description, options)
    return None if blocks is None else blocks * BLOCK_SIZE


@dataclass
class JobRun:
    """One run of a job alone.

    `run` may be called once. Whatever it raises, the journal can be resumed.

    Attributes:
        unexecuted: what requests without a result end with; None: they are run.
        elsewhere: the engine is somebody's servers; how long a request may be, it says.
    """

    job: OpenJob
    options: EngineOptions
    unexecuted: Unexecuted | None = None
    elsewhere: bool = False
    summary: RunSummary = field(default_factory=RunSummary)
    engine_run: RunProtocol | None = None
    _engine: EngineProtocol | None = field(default=None, init=False)

    def run(self, make_engine: EngineFactory) -> RunSummary:
        """Bring the job to its end. The summary lacks the total of seconds, which the caller knows.

        Args:
            make_engine: called only when a request is left to run, or when nothing else says how
                long a request may be.
        """
        started = time.perf_counter()
        job = self.job
        with job.reporter, closing(self):
            capacity = self._capacity_tokens(make_engine)
            further = self._engine.model_names if isinstance(self._engine, SendsLines) else ()
            reading = time.perf_counter()
            job.read(capacity, further)
            self.summary.seconds.plan = time.perf_counter() - reading
            if self.unexecuted is not None:
                job.give_up(self.unexecuted)
            elif len(job.requests):
                self._generate(make_engine)
            self.summary.requests = job.finish()
        self.summary.seconds.total = time.perf_counter() - started
        return self.summary

    def _capacity_tokens(self, make_engine: EngineFactory) -> int:
        """See `kv_capacity_tokens`; here the engine is made if it takes that."""
        description = self.job.description
        stated = None if self.elsewhere else kv_capacity_tokens(description, self.options)
        if stated is None and self.unexecuted is not None:
            return description.max_model_len  # nothing runs, so the model's limit is the only one
        return self._load(make_engine).machine.kv_tokens if stated is None else stated

    def close(self) -> None:
        """Close the engine, if one was made."""
        if self._engine is not None:
            self._engine.close()

    def _load(self, make_engine: EngineFactory) -> EngineProtocol:
        if self._engine is None:
            began = time.perf_counter()
            self._engine = make_engine(self.job.description, self.options)
            self.summary.seconds.load = time.perf_counter() - began
        return self._engine

    def _generate(self, make_engine: EngineFactory) -> None:
        seconds = self.summary.seconds
        engine = self._load(make_engine)
        loaded = time.perf_counter()
        if isinstance(engine, SendsLines):
            engine.read_with(self.job.input.index.content)
        self.engine_run = run = engine.run(self.job.requests)
        planned = time.perf_counter()
        seconds.plan += planned - loaded
        self._announce(run)
        self._drive(run)
        seconds.run = time.perf_counter() - planned
        run.stats.summarise(run.planned, self.summary)

    def _announce(self, run: RunProtocol) -> None:
        plan, job = run.planned, self.job.input
        share = 1 - plan.computed_prompt_tokens / max(plan.prompt_tokens, 1)
        rejected = f", {job.rejected:,} lines rejected" if job.rejected else ""
        self.job.reporter.message(
            f"{len(job.table):,} prompts to run{rejected}; {plan.prompt_tokens:,} prompt tokens, "
            f"{share:.1%} of them shared and computed once"
        )

    def _drive(self, run: RunProtocol) -> None:
        """Every iteration of the run; a signal stops it between two of them."""
        job, planned = self.job, run.planned.computed_prompt_tokens
        interruption = job.interruption
        began = time.perf_counter()
        with interruption.deferred():
            for completions in run:
                job.take(completions)
                left = remaining_tokens(run.stats, planned, [job.collector])
                job.reporter.update(progress(job, run, left, time.perf_counter() - began))
                if interruption.requested:
                    break
            job.journal.flush()
            interruption.check()
        if unfinished := job.collector.unfinished:
            raise InternalError(f"the engine ended with {unfinished} requests unfinished")


def progress(job: OpenJob, run: RunProtocol, remaining: int, seconds: float) -> ProgressState:
    """How far a job is, and the run that it is in.

    Args:
        remaining: tokens of the run still to come, as far as expected.
        seconds: since the run began.
    """
    counts = job.journal.counts
    return ProgressState(
        done=counts.total,
        total=job.input.requests,
        tokens=run.stats.prompt_tokens_computed + run.stats.generated_tokens,
        remaining_tokens=remaining,
        seconds=seconds,
        kv_bytes=run.stats.kv_bytes_in_use,
        failed=counts.failed,
    )
