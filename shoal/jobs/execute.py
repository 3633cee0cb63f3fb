"""One run of a job: read what is left, run it, journal what finishes, put the files in place."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.detokenize import Detokenizer
from shoal.answers.structure import Structure
from shoal.config import EngineOptions
from shoal.costs import BLOCK_SIZE
from shoal.errors import InternalError, InvalidRequestError, JobChangedError
from shoal.jobs.collect import Collector
from shoal.jobs.finish import finish_job
from shoal.jobs.frames import FrameKind
from shoal.jobs.header import JobHeader
from shoal.jobs.journal import Journal
from shoal.jobs.paths import JobPaths
from shoal.jobs.sources import KeptTable
from shoal.machine.capacity import stated_blocks
from shoal.model.description import ModelDescription
from shoal.progress import ProgressState, Reporter
from shoal.requests.pooled_bodies import PooledBodies
from shoal.requests.reader import JobInput, read_job
from shoal.requests.scored_choices import AskedChoices
from shoal.results.parquet_results import ParquetResults
from shoal.results.records import RecordWriter
from shoal.results.results_file import JsonLines, OpenResults, is_parquet
from shoal.results.survey import Survey
from shoal.results.unexecuted import Unexecuted
from shoal.signals import Interruption
from shoal.types import Completion, RunSummary

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
    """One run of the job in an open journal.

    `run` may be called once. Whatever it raises, the journal can be resumed.

    Attributes:
        table: whose rows the requests were made from, line i from row i; None: from none.
        unexecuted: what requests without a result end with; None: they are run.
    """

    paths: JobPaths
    description: ModelDescription
    options: EngineOptions
    header: JobHeader
    journal: Journal
    reporter: Reporter
    interruption: Interruption
    table: KeptTable | None = None
    unexecuted: Unexecuted | None = None
    summary: RunSummary = field(default_factory=RunSummary)
    engine_run: RunProtocol | None = None

    def __post_init__(self) -> None:
        detokenizer = Detokenizer(self.description.tokenizer)
        self._engine: EngineProtocol | None = None
        model, pooled = self.description, None
        if model.pooling is not None:
            pooled = PooledBodies(model.pooling, model.tokenizer, model.vocab_size)
        form = AnswerFormat.find(model.tokenizer, model.tool_call_parser, model.reasoning_parser)
        self._records = RecordWriter(self.header.job_id, model.name, detokenizer, pooled, form)

    def run(
        self,
        names: Collection[str],
        schema: Structure | None,
        choices: AskedChoices | None,
        make_engine: EngineFactory,
    ) -> RunSummary:
        """Bring the job to its end. The summary lacks the total of seconds, which the caller knows.

        Args:
            names: further names for `body.model`.
            schema: of answers whose request asks for no form of its own.
            choices: to be scored for such requests.
            make_engine: called only when a request is left to run, or when nothing else says how
                long a request may be.
        """
        started = time.perf_counter()
        with self.reporter, closing(self):
            capacity = self._capacity_tokens(make_engine)
            reading = time.perf_counter()
            survey = Survey(schema, choices)
            job = self._read(names, schema, choices, capacity, survey)
            self.summary.seconds.plan = time.perf_counter() - reading
            try:
                if self.unexecuted is not None:
                    self._give_up(job, self.unexecuted)
                elif len(job.table):
                    self._generate(job, make_engine)
                lines, results = job.index.requests(), self._results(survey)
                self.summary.requests = finish_job(self.journal, lines, self.paths, results)
            finally:
                job.index.close()
        self.summary.seconds.total = time.perf_counter() - started
        return self.summary

    def _capacity_tokens(self, make_engine: EngineFactory) -> int:
        """See `kv_capacity_tokens`; here the engine is made if it takes that."""
        stated = kv_capacity_tokens(self.description, self.options)
        if stated is None and self.unexecuted is not None:
            return (
                self.description.max_model_len
            )  # nothing runs, so the model's limit is the only one
        return self._load(make_engine).machine.kv_tokens if stated is None else stated

    def close(self) -> None:
        """Close the engine, if one was made."""
        if self._engine is not None:
            self._engine.close()

    def _load(self, make_engine: EngineFactory) -> EngineProtocol:
        if self._engine is None:
            began = time.perf_counter()
            self._engine = make_engine(self.description, self.options)
            self.summary.seconds.load = time.perf_counter() - began
        return self._engine

    def _results(self, survey: Survey) -> OpenResults:
        """What the output is written as."""
        if not is_parquet(self.paths.output):
            return JsonLines
        kept = None if self.table is None else self.table.rows()
        return lambda file: ParquetResults(file, survey, kept)

    def _read(
        self,
        names: Collection[str],
        schema: Structure | None,
        choices: AskedChoices | None,
        capacity_tokens: int,
        survey: Survey,
    ) -> JobInput:
        if self.journal.counts.total:
            self.reporter.message(
                f"resuming: {self.journal.counts.total:,} requests have their results already."
            )
        job = read_job(
            self.paths.input,
            self.description,
            capacity_tokens=capacity_tokens,
            names=names,
            schema=schema,
            choices=choices,
            reject=self._reject,
            skip=self.journal.has_record,
            **({"note": survey.note} if is_parquet(self.paths.output) else {}),
            progress=self._reading,
            job_seed=self.header.job_seed,
        )
        if job.digest.hexdigest != self.header.input_digest:
            job.index.close()
            raise JobChangedError(
                f"{self.paths.input} changed while it was read. When it is complete, start over "
                "with --restart."
            )
        return job

    def _reading(self, lines: int) -> None:
        self.reporter.reading(lines)
        self.interruption.check()

    def _give_up(self, job: JobInput, why: Unexecuted) -> None:
        """Journal every request that has no result as one that is never executed."""
        for line in dict.fromkeys(job.table.line.tolist()):
            record = self._records.unexecuted(line, job.index.name(line).custom_id, why)
            self.journal.append(FrameKind.failed, line, record)

    def _reject(self, line: int, custom_id: str | None, error: InvalidRequestError) -> None:
        record = self._records.failure(line, custom_id, error)
        self.journal.append(FrameKind.rejected, line, record)

    def _generate(self, job: JobInput, make_engine: EngineFactory) -> None:
        seconds = self.summary.seconds
        engine = self._load(make_engine)
        loaded = time.perf_counter()
        self.engine_run = run = engine.run(job.table)
        planned = time.perf_counter()
        seconds.plan += planned - loaded
        self._announce(job, run)
        self._drive(run, job)
        seconds.run = time.perf_counter() - planned
        run.stats.summarise(run.planned, self.summary)

    def _announce(self, job: JobInput, run: RunProtocol) -> None:
        plan = run.planned
        share = 1 - plan.computed_prompt_tokens / max(plan.prompt_tokens, 1)
        rejected = f", {job.rejected:,} lines rejected" if job.rejected else ""
        self.reporter.message(
            f"{len(job.table):,} prompts to run{rejected}; {plan.prompt_tokens:,} prompt tokens, "
            f"{share:.1%} of them shared and computed once"
        )

    def _drive(self, run: RunProtocol, job: JobInput) -> None:
        """Every iteration of the run; a signal stops it between two of them."""
        collector = Collector(job.table, run.planned.computed_prompt_tokens)
        began = time.perf_counter()
        with self.interruption.deferred():
            for completions in run:
                for line, prompts in collector.take(completions):
                    self._record(job, line, prompts)
                self.journal.flush_if_due()
                self.reporter.update(
                    ProgressState(
                        done=self.journal.counts.total,
                        total=job.requests,
                        tokens=run.stats.prompt_tokens_computed + run.stats.generated_tokens,
                        remaining_tokens=collector.remaining_tokens(run.stats),
                        seconds=time.perf_counter() - began,
                        kv_bytes=run.stats.kv_bytes_in_use,
                        failed=self.journal.counts.failed,
                    )
                )
                if self.interruption.requested:
                    break
            self.journal.flush()
            self.interruption.check()
        if collector.unfinished:
            raise InternalError(f"the engine ended with {collector.unfinished} requests unfinished")

    def _record(self, job: JobInput, line: int, prompts: Sequence[Completion]) -> None:
        name = job.index.name(line)
        error = next((prompt.error for prompt in prompts if prompt.error is not None), None)
        if error is None:
            record = self._records.success(line, name, prompts, job.table)
            self.journal.append(FrameKind.done, line, record)
        else:
            record = self._records.failure(line, name.custom_id, error)
            self.journal.append(FrameKind.failed, line, record)
