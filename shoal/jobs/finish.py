"""From a complete journal to the job's files: in input order, renamed into place when whole."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from shoal.disk import ContentDigest, NewFile, sync_directory, writes_to
from shoal.errors import OutputChangedError, OutputExistsError
from shoal.jobs.frames import FrameKind
from shoal.jobs.journal import FinishedJob, Journal
from shoal.jobs.paths import JobPaths
from shoal.requests.lines import digest_input
from shoal.results.records import RECORD_BEGINS
from shoal.results.results_file import JsonLines, OpenResults, results_begin
from shoal.types import RequestCounts


def finish_job(
    journal: Journal,
    lines: Iterable[int],
    paths: JobPaths,
    open_results: OpenResults = JsonLines,
) -> RequestCounts:
    """Write the output and errors files from the journal and mark the job as finished.

    A kill anywhere in here leaves a journal from which the same call succeeds.

    Args:
        lines: those that have a record, counted from 0, in order.
        open_results: what the output is written as.

    Raises:
        OutputWriteError: the disk refused; nothing was put in place that is not whole.
        OutputExistsError: a file that is not this job's has come where one would be put.
        OutputLockedError: another job is writing the same errors file.
        InternalError: a line has no record.
    """
    journal.flush()
    counts = journal.counts
    with (
        NewFile(paths.errors, RECORD_BEGINS) as failures,
        NewFile(paths.output, results_begin(paths.output)) as successes,
    ):
        good, bad = open_results(successes), JsonLines(failures)
        for frame in journal.records(lines):
            results = good if frame.kind is FrameKind.done else bad
            results.add(frame.line, frame.payload)
        good.close()
        output, errors = successes.sync(), failures.sync() if counts.failed else None
        made = {paths.output: output} | ({} if errors is None else {paths.errors: errors})
        refuse_foreign(made, journal.replaceable)
        journal.allow(made.values())
        if errors is None:
            _remove_stale(paths.errors, journal.replaceable)
        else:
            failures.put_in_place()
        successes.put_in_place()
    journal.finish(counts, output, errors)
    return counts


def refuse_foreign(files: Collection[Path], replaceable: Collection[ContentDigest]) -> None:
    """Refuse to replace files whose content is not known to be this job's.

    Raises:
        OutputExistsError: names the first of them.
    """
    for path in files:
        if path.exists() and digest_input(path) not in replaceable:
            raise OutputExistsError(
                f"{path} exists, and no journal beside it says that this job made it. Move it "
                "away, choose another output, or replace it with --restart."
            )


def refuse_changed(paths: JobPaths, finished: FinishedJob) -> None:
    """Refuse to call a job finished whose files do not hold what it put there.

    An errors file that is gone is let pass: who has dealt with it may have removed it.

    Raises:
        OutputChangedError: names the first that differs.
    """
    for path, left in ((paths.output, finished.output), (paths.errors, finished.errors)):
        if left is None or not path.exists():
            continue
        now = digest_input(path)
        if now != left:
            sizes = f"{left.size_bytes:,} bytes then, {now.size_bytes:,} now"
            raise OutputChangedError(
                f"the job has finished, but {path} was changed since ({sizes}). Keep it by moving "
                "it away or choosing another output, or start over with --restart."
            )


def _remove_stale(path: Path, replaceable: Collection[ContentDigest]) -> None:
    if path.exists() and digest_input(path) in replaceable:
        with writes_to(path):
            path.unlink()
            sync_directory(path)
