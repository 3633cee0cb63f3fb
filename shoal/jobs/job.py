"""Run a batch file from start to end, or on from where an earlier run stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.config import EngineOptions
from shoal.endpoints.httpx_package import require_httpx
from shoal.jobs.execute import EngineFactory, JobRun
from shoal.jobs.job_result import JobResult
from shoal.jobs.job_start import Describe, JobStart
from shoal.jobs.paths import JobPaths
from shoal.jobs.sources import STANDARD_INPUT, KeptTable, open_source, open_table
from shoal.jobs.spec import JobSpec
from shoal.model.description import ModelDescription
from shoal.model.pooling import AskedPooling
from shoal.progress import Reporter, make_reporter
from shoal.results.results_file import check_format, is_parquet
from shoal.results.unexecuted import Unexecuted
from shoal.signals import Interruption

if TYPE_CHECKING:
    from shoal.devices import EngineProtocol


def run_job(
    spec: JobSpec,
    *,
    engine: EngineFactory | None = None,
    reporter: Reporter | None = None,
    asked: Callable[[], bool] = lambda: False,
    unexecuted: Unexecuted | None = None,
    describe: Describe | None = None,
) -> JobResult:
    """Run every request of a job and write its results, in input order.

    Each line that is not blank gives exactly one record, in `output` or in `errors`. Interrupted in
    any way, the same call goes on from there; called again after the end, it does nothing. An input
    without lines gives an empty output.

    Args:
        engine: makes the engine, by default that of `shoal.fleet.engines`, or with `spec.endpoints`
            what sends the requests there; called only when there is something to run.
        reporter: shows how far it is; by default what `make_reporter` chooses.
        asked: whether somebody wants the job interrupted, looked at in every iteration.
        unexecuted: end the job now. Requests without a result are not run, and get an error record
            that says this.
        describe: the model for this kind of job, by default what the spec names, loaded anew.

    Raises:
        OptionError: paths or options are wrong, or pyarrow is missing for a table.
        JobError: the input, or table and template, cannot be read or used.
        ModelError: the model cannot be used.
        OutputLockedError: another run writes this output.
        OutputExistsError: the output exists and no journal says that this job made it.
        OutputChangedError: the job has finished, and its files were changed since.
        JobChangedError: input, model or options are not those the job began with.
        EndpointError: no server of `spec.endpoints` can be used.
        OutputWriteError: the disk is full, or refuses otherwise.
        Interrupted: SIGINT or SIGTERM, or `asked`.
    """
    reporter = reporter or make_reporter(quiet=spec.quiet)
    start = start_of(spec, reporter, asked, describe)
    make = engine or _engine_of(spec)
    started = time.perf_counter()
    with start.interruption.installed(), start.opened() as job:
        if isinstance(job, JobResult):
            return job
        run = JobRun(job, spec.options, unexecuted, elsewhere=bool(spec.endpoints))
        summary = run.run(make)
        summary.seconds.total = time.perf_counter() - started
        return start.result(summary, job.header, already_finished=False, run=run.engine_run)


def start_of(
    spec: JobSpec,
    reporter: Reporter,
    asked: Callable[[], bool] = lambda: False,
    describe: Describe | None = None,
) -> JobStart:
    """Check a job's paths, and render its table if it has one; arguments as `run_job` has them.

    Raises:
        ShoalError: as `run_job`.
    """
    check_format(spec.output)
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
        rendering = Interruption("interrupted while rendering; run the same command again.")
        with rendering.installed():
            reporter.message(f"rendering {spec.table}")
            kept = KeptTable.of(spec.table) if is_parquet(spec.output) else None
            spool, rendered = open_table(spec.table, spec.template)
        if rendered.order is not None:
            reporter.message(f"{rendered.rows:,} rows: {rendered.order}")
    interruption = Interruption(
        f"interrupted. Finished requests are saved in {paths.journal}; run the same command "
        "again to resume.",
        asked=asked,
    )
    return JobStart(spec, paths, spool, kept, reporter, interruption, describe or _loaded(spec))


def _loaded(spec: JobSpec) -> Describe:
    def describe(asked: AskedPooling | None) -> ModelDescription:
        return ModelDescription.load(spec.model, spec.options, asked=asked)

    return describe


def _engine_of(spec: JobSpec) -> EngineFactory:
    """The factory of the engine that a job asks for."""
    if not spec.endpoints:
        return _make_engine
    require_httpx()

    def make(description: ModelDescription, options: EngineOptions) -> EngineProtocol:
        from shoal.endpoints.endpoint_engine import EndpointEngine

        return EndpointEngine(description, options, spec.endpoints)

    return make


def _make_engine(description: ModelDescription, options: EngineOptions) -> EngineProtocol:
    # Planning a job imports this module, and no engine.
    from shoal.fleet.engines import make_engine

    return make_engine(description, options)


def model_files(model: str | None) -> dict[str, Path]:
    """The files in a model's folder, by what messages call them; none for a model of the Hub."""
    if model is None or not os.path.isdir(model):  # of any string, too long ones among them
        return {}
    return {f"the model's {path.name}": path for path in Path(model).iterdir() if path.is_file()}
