"""Run a batch file from start to end, or on from where an earlier run stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.answers.structure import Structure
from shoal.config import EngineOptions
from shoal.disk import ContentDigest, NewFile
from shoal.errors import JobChangedError, OutputExistsError
from shoal.jobs.execute import EngineFactory, JobRun
from shoal.jobs.finish import refuse_changed, refuse_foreign
from shoal.jobs.header import JobHeader
from shoal.jobs.job_kind import kind_of_file, kind_of_spool, refuse_answers_only
from shoal.jobs.journal import Journal
from shoal.jobs.paths import JobPaths
from shoal.jobs.sources import STANDARD_INPUT, KeptTable, open_source, open_table
from shoal.jobs.spec import JobSpec
from shoal.jobs.spool import Spool, remove_spool
from shoal.model.description import ModelDescription
from shoal.progress import Reporter, make_reporter
from shoal.requests.lines import digest_input
from shoal.requests.schema_file import read_schema
from shoal.requests.scored_choices import AskedChoices, read_choices
from shoal.results.records import RECORD_BEGINS
from shoal.results.results_file import check_format, is_parquet, results_begin
from shoal.results.unexecuted import Unexecuted
from shoal.signals import Interruption
from shoal.types import RunSummary

if TYPE_CHECKING:
    from shoal.devices import EngineProtocol, RunProtocol

EXIT_SUCCEEDED = 0
EXIT_SOME_FAILED = 3


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        summary: its `requests` count the whole job; tokens, seconds and the rest count this run
            (after a resume, not what earlier runs did).
        already_finished: an earlier run had finished it, and this one did nothing.
        errors: the errors file, or None when no request failed or the file is gone.
        run: plan and trace of this run, None when nothing was left to run.
    """

    summary: RunSummary
    output: Path
    errors: Path | None
    already_finished: bool
    run: RunProtocol | None = None

    @property
    def exit_code(self) -> int:
        """0: every request succeeded; 3: some are in the errors file."""
        return EXIT_SOME_FAILED if self.summary.requests.failed else EXIT_SUCCEEDED


def run_job(
    spec: JobSpec,
    *,
    engine: EngineFactory | None = None,
    reporter: Reporter | None = None,
    asked: Callable[[], bool] = lambda: False,
    unexecuted: Unexecuted | None = None,
) -> JobResult:
    """Run every request of a job and write its results, in input order.

    Each line that is not blank gives exactly one record, in `output` or in `errors`. Interrupted in
    any way, the same call goes on from there; called again after the end, it does nothing. An input
    without lines gives an empty output.

    Args:
        engine: makes the engine, by default `shoal.devices.make_engine`; called only when there
            is something to run.
        reporter: shows how far it is; by default what `make_reporter` chooses.
        asked: whether somebody wants the job interrupted, looked at in every iteration.
        unexecuted: end the job now. Requests without a result are not run, and get an error record
            that says this.

    Raises:
        OptionError: paths or options are wrong, or pyarrow is missing for a table.
        JobError: the input, or table and template, cannot be read or used.
        ModelError: the model cannot be used.
        OutputLockedError: another run writes this output.
        OutputExistsError: the output exists and no journal says that this job made it.
        OutputChangedError: the job has finished, and its files were changed since.
        JobChangedError: input, model or options are not those the job began with.
        OutputWriteError: the disk is full, or refuses otherwise.
        Interrupted: SIGINT or SIGTERM, or `asked`.
    """
    check_format(spec.output)
    reporter = reporter or make_reporter(quiet=spec.quiet)
    kept = None
    reads = model_files(spec.model)
    if spec.schema is not None:
        reads["--schema"] = spec.schema
    if isinstance(spec.choices, Path):
        reads["--choices"] = spec.choices
    if spec.input is not None:
        spool = open_source(spec.input)
        if spool is not None and str(spec.input) != STANDARD_INPUT:
            reads["the input"] = spec.input
        source = spec.input if spool is None else None
        paths = JobPaths.resolve(spec, source, reads)
    else:
        assert spec.table is not None
        assert spec.template is not None
        reads |= {"--table": spec.table, "--template": spec.template}
        paths = JobPaths.resolve(spec, None, reads)
        interruption = Interruption("interrupted while rendering; run the same command again.")
        with interruption.installed():
            reporter.message(f"rendering {spec.table}")
            kept = KeptTable.of(spec.table) if is_parquet(spec.output) else None
            spool, rendered = open_table(spec.table, spec.template)
        if rendered.order is not None:
            reporter.message(f"{rendered.rows:,} rows: {rendered.order}")
    make = engine or _make_engine
    return _JobStart(spec, paths, spool, kept, make, reporter, asked, unexecuted).run()


def _make_engine(description: ModelDescription, options: EngineOptions) -> EngineProtocol:
    # Planning a job imports this module, and no engine.
    from shoal.devices import make_engine

    return make_engine(description, options)


def model_files(model: str | None) -> dict[str, Path]:
    """The files in a model's folder, by what messages call them; none for a model of the Hub."""
    if model is None or not os.path.isdir(model):  # of any string, too long ones among them
        return {}
    return {f"the model's {path.name}": path for path in Path(model).iterdir() if path.is_file()}


@dataclass
class _JobStart:
    """A job whose paths are checked.

    Attributes:
        spool: what writes `paths.input` first; None when that is a file already.
        kept: the table whose columns go into the results; None: none do.
        asked, unexecuted: as `run_job` is given them.
    """

    spec: JobSpec
    paths: JobPaths
    spool: Spool | None
    kept: KeptTable | None
    engine: EngineFactory
    reporter: Reporter
    asked: Callable[[], bool]
    unexecuted: Unexecuted | None

    def run(self) -> JobResult:
        """As `run_job`."""
        started = time.perf_counter()
        paths, options, reporter = self.paths, self.spec.options, self.reporter
        interruption = Interruption(
            f"interrupted. Finished requests are saved in {paths.journal}; run the same command "
            "again to resume.",
            asked=self.asked,
        )
        with interruption.installed():
            if self.spool is None:
                asked = kind_of_file(paths.input, options.pooling_type)
            else:
                asked, self.spool = kind_of_spool(self.spool, options.pooling_type)
            refuse_answers_only(asked, options, self.spec.schema)
            description = ModelDescription.load(self.spec.model, options, asked=asked)
            schema = read_schema(self.spec.schema, description)
            choices = read_choices(self.spec.choices)
            with closing(Journal(paths.journal)) as journal:
                header = self._enter(journal, description, schema, choices)
                if journal.finished is not None:
                    reporter.message(f"{paths.output} is already finished; nothing to do.")
                    summary = RunSummary(requests=journal.finished.counts)
                    return self._result(summary, journal, already_finished=True)
                job = JobRun(
                    paths,
                    description,
                    options,
                    header,
                    journal,
                    reporter,
                    interruption,
                    self.kept,
                    self.unexecuted,
                )
                summary = job.run(self.spec.served_names, schema, choices, self.engine)
                summary.seconds.total = time.perf_counter() - started
                return self._result(summary, journal, already_finished=False, run=job.engine_run)

    def _enter(
        self,
        journal: Journal,
        description: ModelDescription,
        schema: Structure | None,
        choices: AskedChoices | None,
    ) -> JobHeader:
        """Begin the job asked for, or go on with the journal's; returns the header that holds."""
        if journal.dropped_bytes:
            what = f"{journal.dropped_bytes} bytes that were torn, damaged or not of this job"
            self.reporter.message(f"{journal.path}: dropped {what}; what they held runs again.")
        try:
            for path, begins in (
                (self.paths.output, results_begin(self.paths.output)),
                (self.paths.errors, RECORD_BEGINS),
            ):
                with NewFile(path, begins):  # takes away what a kill left behind
                    pass
            if self.spool is None:
                content = digest_input(self.paths.input)
                asked = self._header(content, description, schema, choices)
                return self._begin_or_go_on(journal, asked)
            with NewFile(self.paths.requests, self.spool.begins) as file:
                content = self.spool.write_to(file)
                asked = self._header(content, description, schema, choices)
                self._refuse_foreign_requests(journal, content)
                header = self._begin_or_go_on(journal, asked)
                if journal.finished is None:
                    file.put_in_place()
                return header
        except BaseException:
            if journal.header is None:
                journal.discard()
            raise

    def _header(
        self,
        content: ContentDigest,
        description: ModelDescription,
        schema: Structure | None,
        choices: AskedChoices | None,
    ) -> JobHeader:
        return JobHeader.new(content, description, self.spec.served_names, schema, choices)

    def _begin_or_go_on(self, journal: Journal, asked: JobHeader) -> JobHeader:
        begun, finished, paths = journal.header, journal.finished, self.paths
        results = [path for path in (paths.output, paths.errors) if path.exists()]
        if self.spec.restart:
            journal.begin(asked, {digest_input(path) for path in results})
            return asked
        if begun is None or (finished is not None and not paths.output.exists()):
            known = set() if finished is None else finished.files
            refuse_foreign(results, known)
            if finished is not None:
                self.reporter.message(f"{paths.output} was finished but is gone; starting over.")
            journal.begin(asked, known)
            return asked
        if changes := begun.changes_to(asked):
            origin = "" if self.spool is None else f" (The input is {self.spool.origin}.)"
            raise JobChangedError(
                f"{paths.output} was begun with something else: {'; '.join(changes)}. Change it "
                f"back to go on, choose another output, or start over with --restart.{origin}"
            )
        if finished is None:
            refuse_foreign(results, journal.replaceable)
        else:
            refuse_changed(paths, finished)
        return begun

    def _refuse_foreign_requests(self, journal: Journal, content: ContentDigest) -> None:
        """The requests of this very job may be replaced, and those of the one before."""
        path, begun = self.paths.requests, journal.header
        known = {content.hexdigest} | ({begun.input_digest} if begun is not None else set())
        if not self.spec.restart and path.exists() and digest_input(path).hexdigest not in known:
            assert self.spool is not None
            raise OutputExistsError(
                f"{path} exists, and does not hold what is {self.spool.origin}. Move it away, "
                "choose another output, or replace it with --restart."
            )

    def _result(
        self,
        summary: RunSummary,
        journal: Journal,
        *,
        already_finished: bool,
        run: RunProtocol | None = None,
    ) -> JobResult:
        paths, failed = self.paths, summary.requests.failed
        if self.spool is not None and not self.spool.kept and journal.header is not None:
            remove_spool(paths.requests, journal.header.input_digest)
        if failed and not paths.errors.exists():
            self.reporter.message(
                f"{failed:,} requests failed, and there is no {paths.errors}: it was moved away, "
                "or the job had another --errors. To make it anew, start over with --restart."
            )
            return JobResult(summary, paths.output, None, already_finished, run)
        errors = paths.errors if failed else None
        return JobResult(summary, paths.output, errors, already_finished, run)
