"""Run a batch file from start to end, or on from where an earlier run stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.config import EngineOptions
from shoal.errors import JobChangedError, OutputExistsError
from shoal.jobs.execute import EngineFactory, JobRun
from shoal.jobs.finish import JobPaths
from shoal.jobs.header import JobHeader
from shoal.jobs.journal import Journal
from shoal.jobs.lines import digest_input
from shoal.model.description import ModelDescription
from shoal.progress import Reporter, make_reporter
from shoal.signals import Interruption
from shoal.types import RunSummary

if TYPE_CHECKING:
    from shoal.devices import AnyRun

EXIT_SUCCEEDED = 0
EXIT_SOME_FAILED = 3


@dataclass(frozen=True)
class JobResult:
    """What became of a job.

    Attributes:
        summary: its `requests` count the whole job; tokens, seconds and the rest count this run
            (after a resume, not what earlier runs did).
        already_finished: an earlier run had finished it, and this one did nothing.
        errors: the errors file, or None when no request failed.
        run: plan and trace of this run, None when nothing was left to run.
    """

    summary: RunSummary
    output: Path
    errors: Path | None
    already_finished: bool
    run: AnyRun | None = None

    @property
    def exit_code(self) -> int:
        """0: every request succeeded; 3: some are in the errors file."""
        return EXIT_SOME_FAILED if self.summary.requests.failed else EXIT_SUCCEEDED


def run_job(
    input_path: str | Path,
    output: str | Path,
    errors: str | Path | None = None,
    *,
    engine: EngineFactory,
    model: str | None = None,
    options: EngineOptions | None = None,
    served_names: Sequence[str] = (),
    restart: bool = False,
    quiet: bool = False,
) -> JobResult:
    """Run every request of a batch file and write its results, in input order.

    Each line gives exactly one record, in `output` or in `errors`. Interrupted in any way, the
    same call goes on from there; called again after the end, it does nothing. An input without
    lines gives an empty output.

    Args:
        errors: results.jsonl has results.errors.jsonl beside it if not given.
        engine: makes the engine; called only when there is something to run.
        served_names: further names for `body.model`; `*` accepts any.
        restart: drop the results of earlier runs. A file of theirs stays until it is replaced.

    Raises:
        OptionError: paths or options are wrong.
        ModelError: the model cannot be used.
        OutputLockedError: another run writes this output.
        OutputExistsError: the output exists and no journal says that this job made it.
        JobChangedError: input, model or options are not those the job began with.
        OutputWriteError: the disk is full, or refuses otherwise.
        Interrupted: SIGINT or SIGTERM.
    """
    started = time.perf_counter()
    options = options or EngineOptions()
    paths = JobPaths.resolve(input_path, output, errors)
    interruption = Interruption(
        f"interrupted. Finished requests are saved in {paths.journal}; run the same command again "
        "to resume."
    )
    reporter = make_reporter(quiet=quiet)
    with interruption.installed():
        description = ModelDescription.load(model, options)
        content = digest_input(paths.input)
        asked = JobHeader.new(content, description, served_names)
        journal = Journal(paths.journal)
        try:
            header = _enter(journal, asked, paths, restart, reporter)
            if journal.finished is not None:
                reporter.message(f"{paths.output} is already finished; nothing to do.")
                summary = RunSummary(requests=journal.finished)
                return _result(summary, paths, already_finished=True)
            job = JobRun(paths, description, options, header, journal, reporter, interruption)
            summary = job.run(served_names, engine)
            summary.seconds.total = time.perf_counter() - started
            return _result(summary, paths, already_finished=False, run=job.engine_run)
        finally:
            journal.close()


def _enter(
    journal: Journal, asked: JobHeader, paths: JobPaths, restart: bool, reporter: Reporter
) -> JobHeader:
    """Begin the job asked for, or go on with the journal's; returns the header that holds."""
    if journal.dropped_bytes:
        reporter.message(f"{journal.path}: dropped {journal.dropped_bytes} bytes of a torn write.")
    begun = journal.header
    if begun is None and not restart:
        _refuse_foreign_output(journal, paths)
    if journal.finished is not None and not paths.output.exists():
        reporter.message(f"{paths.output} was finished but is gone; starting over.")
        begun = None
    if begun is None or restart:
        journal.begin(asked)
        return asked
    if changes := begun.changes_to(asked):
        raise JobChangedError(
            f"{paths.output} was begun with something else: {'; '.join(changes)}. Change it back "
            "to go on, choose another output, or start over with --restart."
        )
    return begun


def _refuse_foreign_output(journal: Journal, paths: JobPaths) -> None:
    for path in (paths.output, paths.errors):
        if path.exists():
            journal.discard()
            raise OutputExistsError(
                f"{path} exists, and no journal beside it says that this job made it. Move it "
                "away, choose another output, or replace it with --restart."
            )


def _result(
    summary: RunSummary, paths: JobPaths, *, already_finished: bool, run: AnyRun | None = None
) -> JobResult:
    errors = paths.errors if summary.requests.failed else None
    return JobResult(summary, paths.output, errors, already_finished, run)
