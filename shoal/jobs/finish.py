"""From a complete journal to the job's files: in input order, renamed into place when whole."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import OptionError
from shoal.jobs.disk import sync_directory, with_suffix, writes_to
from shoal.jobs.frames import FrameKind
from shoal.jobs.journal import Journal
from shoal.types import RequestCounts


@dataclass(frozen=True)
class JobPaths:
    """The files of a job.

    Attributes:
        output: always made, and empty when no request succeeded.
        errors: made only when a request failed.
        journal: beside the output; stays as a small marker when the job has finished.
    """

    input: Path
    output: Path
    errors: Path
    journal: Path

    @classmethod
    def resolve(
        cls, input_path: str | Path, output: str | Path, errors: str | Path | None
    ) -> JobPaths:
        """Absolute paths; without `errors`, results.jsonl has results.errors.jsonl beside it.

        Raises:
            OptionError: two of the files are one, or a folder is missing.
        """
        out = Path(output).resolve()
        err = (
            out.with_name(f"{out.stem}.errors.jsonl") if errors is None else Path(errors).resolve()
        )
        paths = cls(Path(input_path).resolve(), out, err, with_suffix(out, ".journal"))
        if len({paths.input, paths.output, paths.errors, paths.journal}) < 4:
            raise OptionError(
                "input, output, errors and the output's journal must be different files, not "
                f"{paths.input}, {paths.output}, {paths.errors} and {paths.journal}."
            )
        for path in (out, err):
            if path.is_dir() or not path.parent.is_dir():
                why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
                raise OptionError(f"cannot write {path}: {why}.")
        return paths


def finish_job(journal: Journal, lines: int, paths: JobPaths) -> RequestCounts:
    """Write the output and errors files from the journal and mark the job as finished.

    A kill anywhere in here leaves a journal from which the same call succeeds.

    Raises:
        OutputWriteError: the disk refused; nothing was put in place that is not whole.
        InternalError: a line has no record.
    """
    journal.flush()
    counts = journal.counts
    temporary = {path: with_suffix(path, ".tmp") for path in (paths.output, paths.errors)}
    try:
        _write(journal, lines, temporary[paths.output], temporary[paths.errors])
        if counts.failed:
            _put_in_place(temporary[paths.errors], paths.errors)
        else:
            temporary[paths.errors].unlink()
            _remove_stale(paths.errors)
        _put_in_place(temporary[paths.output], paths.output)
    except BaseException:
        for path in temporary.values():
            with suppress(OSError):
                path.unlink()
        raise
    journal.finish(counts)
    return counts


def _write(journal: Journal, lines: int, output: Path, errors: Path) -> None:
    with writes_to(output), output.open("wb") as successes, errors.open("wb") as failures:
        for frame in journal.records(lines):
            file = successes if frame.kind is FrameKind.done else failures
            file.write(frame.payload + b"\n")
        for file in (successes, failures):
            file.flush()
            os.fsync(file.fileno())


def _put_in_place(temporary: Path, path: Path) -> None:
    with writes_to(path):
        os.replace(temporary, path)
        sync_directory(path)


def _remove_stale(path: Path) -> None:
    with writes_to(path):
        path.unlink(missing_ok=True)
        sync_directory(path)
