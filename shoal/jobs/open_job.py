"""A job in its open journal: what is left is read, what finishes is journaled, files are written.

Who runs the requests is another's matter: `execute` runs those of one job, `together` those of
several.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.detokenize import Detokenizer
from shoal.answers.structure import Structure
from shoal.errors import InternalError, InvalidRequestError, JobChangedError
from shoal.jobs.collect import Collector
from shoal.jobs.finish import finish_job
from shoal.jobs.frames import FrameKind
from shoal.jobs.header import JobHeader
from shoal.jobs.journal import Journal
from shoal.jobs.paths import JobPaths
from shoal.jobs.sources import KeptTable
from shoal.model.description import ModelDescription
from shoal.progress import Reporter
from shoal.prompts.render import Renderer
from shoal.requests.pooled_bodies import PooledBodies
from shoal.requests.reader import JobInput, read_job
from shoal.requests.scored_choices import AskedChoices
from shoal.results.parquet_results import ParquetResults
from shoal.results.records import RecordWriter
from shoal.results.results_file import JsonLines, OpenResults, is_parquet
from shoal.results.survey import Survey
from shoal.results.unexecuted import Unexecuted
from shoal.signals import Interruption
from shoal.types import Completion, RequestCounts, RequestTable


@dataclass
class OpenJob:
    """A job under way. Whatever is raised, its journal can be resumed.

    `read` comes first, then `take` or `give_up`, then `finish`; `close` in any case.

    Attributes:
        names: further names for `body.model`.
        schema: of answers whose request asks for no form of its own.
        choices: to be scored for such requests.
        table: whose rows the requests were made from, line i from row i; None: from none.
    """

    paths: JobPaths
    description: ModelDescription
    header: JobHeader
    journal: Journal
    reporter: Reporter
    interruption: Interruption
    names: Collection[str] = ()
    schema: Structure | None = None
    choices: AskedChoices | None = None
    table: KeptTable | None = None
    _input: JobInput | None = field(default=None, init=False)
    _collector: Collector | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        model, pooled = self.description, None
        if model.pooling is not None:
            pooled = PooledBodies(model.pooling, model.tokenizer, model.vocab_size)
        form = AnswerFormat.find(model.tokenizer, model.tool_call_parser, model.reasoning_parser)
        detokenizer = Detokenizer(model.tokenizer)
        self._records = RecordWriter(self.header.job_id, model.name, detokenizer, pooled, form)
        self._survey = Survey(self.schema, self.choices, reasons=form.shows_reasoning)

    @property
    def input(self) -> JobInput:
        """What was read."""
        if self._input is None:
            raise InternalError("the job was not read")
        return self._input

    @property
    def requests(self) -> RequestTable:
        """Those without a result when it was read."""
        return self.input.table

    @property
    def collector(self) -> Collector:
        """What has finished of them."""
        if self._collector is None:
            raise InternalError("the job was not read")
        return self._collector

    def read(
        self,
        capacity_tokens: int,
        further_names: Collection[str] = (),
        renderer: Renderer | None = None,
    ) -> None:
        """Read the input; lines that cannot run get their records.

        Args:
            further_names: for `body.model`, beside `names`.
            renderer: as `read_job` has it.
        """
        if self.journal.counts.total:
            self.reporter.message(
                f"resuming: {self.journal.counts.total:,} requests have their results already."
            )
        self._input = job = read_job(
            self.paths.input,
            self.description,
            capacity_tokens=capacity_tokens,
            names={*self.names, *further_names},
            schema=self.schema,
            choices=self.choices,
            reject=self._reject,
            skip=self.journal.has_record,
            **({"note": self._survey.note} if is_parquet(self.paths.output) else {}),
            progress=self._reading,
            job_seed=self.header.job_seed,
            renderer=renderer,
        )
        if job.digest.hexdigest != self.header.input_digest:
            raise JobChangedError(
                f"{self.paths.input} changed while it was read. When it is complete, start over "
                "with --restart."
            )
        self._collector = Collector(job.table)

    def give_up(self, why: Unexecuted) -> None:
        """Journal every request that has no result as one that is never executed."""
        for line in dict.fromkeys(self.requests.line.tolist()):
            custom_id = self.input.index.name(line).custom_id
            record = self._records.unexecuted(line, custom_id, why)
            self.journal.append(FrameKind.failed, line, record)

    def take(self, completions: Sequence[Completion]) -> None:
        """Journal the lines that these complete; called every iteration, for the journal's sake."""
        for line, prompts in self.collector.take(completions):
            self._record(line, prompts)
        self.journal.flush_if_due()

    def finish(self) -> RequestCounts:
        """Put the job's files in place; every line has its record."""
        return finish_job(
            self.journal, self.input.index.requests(), self.paths, self._results_writer()
        )

    def close(self) -> None:
        """Let go of the input."""
        if self._input is not None:
            self._input.index.close()

    def _results_writer(self) -> OpenResults:
        """What the output is written as."""
        if not is_parquet(self.paths.output):
            return JsonLines
        kept = None if self.table is None else self.table.rows()
        return lambda file: ParquetResults(file, self._survey, kept)

    def _reading(self, lines: int) -> None:
        self.reporter.reading(lines)
        self.interruption.check()

    def _reject(self, line: int, custom_id: str | None, error: InvalidRequestError) -> None:
        record = self._records.failure(line, custom_id, error)
        self.journal.append(FrameKind.rejected, line, record)

    def _record(self, line: int, prompts: Sequence[Completion]) -> None:
        name = self.input.index.name(line)
        if (answer := prompts[0].answer) is not None:
            record = self._records.answered(line, name.custom_id, answer)
            kind = FrameKind.done if answer.succeeded else FrameKind.failed
            self.journal.append(kind, line, record)
            return
        error = next((prompt.error for prompt in prompts if prompt.error is not None), None)
        if error is None:
            record = self._records.success(line, name, prompts, self.requests)
            self.journal.append(FrameKind.done, line, record)
        else:
            record = self._records.failure(line, name.custom_id, error)
            self.journal.append(FrameKind.failed, line, record)
