"""Whether a job begins, goes on where an earlier run stopped, or is finished already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from shoal.answers.structure import Structure
from shoal.disk import ContentDigest, NewFile
from shoal.errors import JobChangedError, OutputExistsError
from shoal.jobs.finish import refuse_changed, refuse_foreign
from shoal.jobs.header import JobHeader
from shoal.jobs.job_kind import kind_of_file, kind_of_spool, refuse_answers_only
from shoal.jobs.job_result import JobResult
from shoal.jobs.journal import Journal
from shoal.jobs.open_job import OpenJob
from shoal.jobs.paths import JobPaths
from shoal.jobs.sources import KeptTable
from shoal.jobs.spec import JobSpec
from shoal.jobs.spool import Spool, remove_spool
from shoal.model.description import ModelDescription
from shoal.model.pooling import AskedPooling
from shoal.progress import Reporter
from shoal.requests.lines import digest_input
from shoal.requests.schema_file import read_schema
from shoal.requests.scored_choices import AskedChoices, read_choices
from shoal.results.records import RECORD_BEGINS
from shoal.results.results_file import results_begin
from shoal.signals import Interruption
from shoal.types import RunSummary

if TYPE_CHECKING:
    from shoal.devices import RunProtocol

Describe: TypeAlias = "Callable[[AskedPooling | None], ModelDescription]"
"""The model of a job that asks for this; None: that it generates."""


@dataclass
class JobStart:
    """A job whose paths are checked: whether it begins, goes on or has finished.

    Attributes:
        spool: what writes `paths.input` first; None when that is a file already.
        kept: the table whose columns go into the results; None: none do.
        describe: the model, for a job of this kind.
    """

    spec: JobSpec
    paths: JobPaths
    spool: Spool | None
    kept: KeptTable | None
    reporter: Reporter
    interruption: Interruption
    describe: Describe

    @contextmanager
    def opened(self) -> Iterator[OpenJob | JobResult]:
        """The job in its open journal for this block, or what became of one that has finished.

        Raises:
            ShoalError: as `run_job`.
        """
        paths, options = self.paths, self.spec.options
        if self.spool is None:
            asked = kind_of_file(paths.input, options.pooling_type)
        else:
            asked, self.spool = kind_of_spool(self.spool, options.pooling_type)
        refuse_answers_only(asked, options, self.spec.schema)
        description = self.describe(asked)
        schema = read_schema(self.spec.schema, description)
        choices = read_choices(self.spec.choices)
        with closing(Journal(paths.journal)) as journal:
            header = self._enter(journal, description, schema, choices)
            if journal.finished is not None:
                self.reporter.message(f"{paths.output} is already finished; nothing to do.")
                summary = RunSummary(requests=journal.finished.counts)
                yield self.result(summary, header, already_finished=True)
                return
            with closing(
                OpenJob(
                    paths,
                    description,
                    header,
                    journal,
                    self.reporter,
                    self.interruption,
                    self.spec.served_names,
                    schema,
                    choices,
                    self.kept,
                )
            ) as job:
                yield job

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
        spec = self.spec
        return JobHeader.new(
            content, description, spec.served_names, schema, choices, spec.endpoints
        )

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

    def result(
        self,
        summary: RunSummary,
        header: JobHeader,
        *,
        already_finished: bool,
        run: RunProtocol | None = None,
    ) -> JobResult:
        """What became of a job whose files are in place."""
        paths, failed = self.paths, summary.requests.failed
        if self.spool is not None and not self.spool.kept:
            remove_spool(paths.requests, header.input_digest)
        if failed and not paths.errors.exists():
            self.reporter.message(
                f"{failed:,} requests failed, and there is no {paths.errors}: it was moved away, "
                "or the job had another --errors. To make it anew, start over with --restart."
            )
            return JobResult(summary, paths.output, None, already_finished, run)
        errors = paths.errors if failed else None
        return JobResult(summary, paths.output, errors, already_finished, run)
