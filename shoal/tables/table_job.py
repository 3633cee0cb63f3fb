"""Relational jobs: a table and a template become a batch file, which runs like any other."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from shoal.config import EngineOptions
from shoal.jobs.disk import NewFile
from shoal.jobs.execute import EngineFactory
from shoal.jobs.job import JobResult, JobStart, model_files
from shoal.jobs.paths import JobPaths
from shoal.jobs.spool import Spool
from shoal.progress import make_reporter
from shoal.signals import Interruption
from shoal.tables.table_requests import FieldOrder, TableRequests
from shoal.tables.template import read_template


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
    also_written: Mapping[str, Path] | None = None,
) -> JobResult:
    """Render one request per row and run them; the results are in the table's row order.

    The requests are written to OUTPUT.requests.jsonl first, the same bytes in every run, and that
    file is the job's input and stays: `run_job` says what else holds.

    Raises:
        OptionError: a path is wrong, or pyarrow is not installed.
        JobError: table or template cannot be read or used.
        JobChangedError: they are not those the job began with.
    """
    reads = {"--table": Path(table), "--template": Path(template), **model_files(model)}
    paths = JobPaths.resolve(None, output, errors, reads=reads, writes=also_written or {})
    reporter = make_reporter(quiet=quiet)
    interruption = Interruption("interrupted while rendering; run the same command again.")
    with interruption.installed():
        reporter.message(f"rendering {table}")
        rendered = TableRequests(Path(table), read_template(Path(template)))
    if rendered.order is not None:
        reporter.message(f"{rendered.rows:,} rows: {rendered.order}")
    spool = _spool(rendered, Path(table), Path(template))
    return JobStart(paths, spool, engine, model, options, served_names, restart, quiet).run()


@contextmanager
def rendered_requests(table: Path, template: Path) -> Iterator[tuple[Path, FieldOrder | None]]:
    """The batch file that `run_table_job` would run, in a temporary folder, and its field order.

    Raises:
        OptionError, JobError: as `run_table_job`.
    """
    rendered = TableRequests(table, read_template(template))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{table.name}.requests.jsonl"
        with NewFile(path, b"") as file:
            _spool(rendered, table, template).write_to(file)
            file.put_in_place()
        yield path, rendered.order


def _spool(rendered: TableRequests, table: Path, template: Path) -> Spool:
    lines = (line + b"\n" for line in rendered.lines())
    origin = f"rendered from {table} and {template}"
    return Spool(lines, origin, begins=b'{"custom_id":"', kept=True)
