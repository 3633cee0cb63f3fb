"""Relational jobs: a table and a template become a batch file, which runs like any other."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from shoal.config import EngineOptions
from shoal.errors import JobChangedError, OptionError, OutputExistsError
from shoal.jobs.disk import sync_directory, with_suffix, writes_to
from shoal.jobs.execute import EngineFactory
from shoal.jobs.finish import JobPaths
from shoal.jobs.job import JobResult, run_job
from shoal.jobs.lines import ContentDigest, digest_input
from shoal.progress import make_reporter
from shoal.signals import Interruption
from shoal.tables.table_requests import FieldOrder, TableRequests
from shoal.tables.template import read_template


def requests_path(output: str | Path) -> Path:
    """Where the batch file of a relational job is kept, beside its output."""
    return with_suffix(Path(output).resolve(), ".requests.jsonl")


def run_table_job(
    table: str | Path,
    template: str | Path,
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
    """Render one request per row and run them; the results are in the table's row order.

    The requests are written to `requests_path(output)` first, the same bytes in every run, and
    that file is the job's input: `run_job` says what else holds.

    Raises:
        OptionError: a path is wrong, or pyarrow is not installed.
        JobError: table or template cannot be read or used.
        JobChangedError: they are not those the job began with.
    """
    requests = requests_path(output)
    paths = _check_paths(Path(table), Path(template), requests, output, errors)
    reporter = make_reporter(quiet=quiet)
    interruption = Interruption("interrupted while rendering; run the same command again.")
    with interruption.installed():
        reporter.message(f"rendering {table}")
        rendered = TableRequests(Path(table), read_template(Path(template)))
        _write_requests(rendered, requests, paths.journal, restart)
    if rendered.order is not None:
        reporter.message(f"{rendered.rows:,} rows: {rendered.order}")
    try:
        return run_job(
            requests,
            output,
            errors,
            engine=engine,
            model=model,
            options=options,
            served_names=served_names,
            restart=restart,
            quiet=quiet,
        )
    except JobChangedError as error:
        raise JobChangedError(
            f"{error} (The input is rendered from {table} and {template}.)"
        ) from None


@contextmanager
def rendered_requests(table: Path, template: Path) -> Iterator[tuple[Path, FieldOrder | None]]:
    """The batch file that `run_table_job` would run, in a temporary folder, and its field order.

    Raises:
        OptionError, JobError: as `run_table_job`.
    """
    rendered = TableRequests(table, read_template(template))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{table.name}.requests.jsonl"
        _write(rendered, path)
        yield path, rendered.order


def _check_paths(
    table: Path, template: Path, requests: Path, output: str | Path, errors: str | Path | None
) -> JobPaths:
    paths = JobPaths.resolve(requests, output, errors)
    written = {paths.input, paths.output, paths.errors, paths.journal}
    for path in (table.resolve(), template.resolve()):
        if path in written:
            raise OptionError(f"{path} is read by this job and cannot be written by it as well.")
    return paths


def _write_requests(rendered: TableRequests, path: Path, journal: Path, restart: bool) -> None:
    """Put the batch file in place as a whole; a file that no job of ours explains is not replaced.

    Raises:
        OutputExistsError: there is another file of this name and no journal.
        OutputWriteError: the disk refused.
    """
    temporary = with_suffix(path, ".tmp")
    try:
        digest = _write(rendered, temporary)
        foreign = path.exists() and not journal.exists() and not restart
        if foreign and digest_input(path) != digest:
            raise OutputExistsError(
                f"{path} exists, and was not rendered from this table and template. Move it away, "
                "choose another output, or replace it with --restart."
            )
        with writes_to(path):
            os.replace(temporary, path)
            sync_directory(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _write(rendered: TableRequests, path: Path) -> ContentDigest:
    digest, size = hashlib.blake2b(digest_size=16), 0
    with writes_to(path), path.open("wb") as file:
        for line in rendered.lines():
            data = line + b"\n"
            digest.update(data)
            size += len(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return ContentDigest(digest.hexdigest(), size)
