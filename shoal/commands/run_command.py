"""`shoal run`: a job from its options to its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from shoal.commands.shared_arguments import (
    BatchFile,
    ChoicesFile,
    Labels,
    Model,
    Names,
    Quiet,
    Restart,
    SchemaFile,
    TableFile,
    TemplateFile,
    asked_choices,
)
from shoal.config import EngineOptions
from shoal.endpoints import EndpointOptions


def run(
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUTPUT.jsonl",
            help="Where results go; a table with columns where it is named *.parquet.",
        ),
    ],
    options: EngineOptions,
    endpoints: EndpointOptions,
    input: BatchFile = None,
    table: TableFile = None,
    template: TemplateFile = None,
    schema: SchemaFile = None,
    labels: Labels = None,
    choices: ChoicesFile = None,
    errors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where failed requests go; OUTPUT.errors.jsonl if not given."
        ),
    ] = None,
    model: Model = None,
    served_model_name: Names = None,
    restart: Restart = False,
    quiet: Quiet = False,
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the run's figures here.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write an HTML report with pictures here.")
    ] = None,
) -> None:
    """Run every request of a batch file or table. Interrupted, the same command resumes."""
    from shoal.jobs import JobSpec, run_job
    from shoal.report.page import write_report
    from shoal.report.summary import summary_table

    endpoints.check_beside(options, {"--report": report})
    spec = JobSpec(
        input=input,
        table=table,
        template=template,
        schema=schema,
        choices=asked_choices(labels, choices),
        output=output,
        errors=errors,
        model=model,
        options=options,
        endpoints=endpoints,
        served_names=served_model_name or (),
        restart=restart,
        quiet=quiet,
        also_written=_check_also_written(summary, report),
    )
    result = run_job(spec)
    if summary is not None:
        summary.write_bytes(orjson.dumps(result.summary.to_dict(), option=orjson.OPT_INDENT_2))
    if report is not None and result.run is None:
        typer.echo("nothing was left to run: no report written", err=True)
    elif report is not None and result.run is not None:
        write_report(
            report,
            title=(table or input or output).name,
            summary=result.summary,
            run=result.run,
        )
    if not quiet and not result.already_finished:
        Console(stderr=True).print(summary_table(result.summary))
    if not quiet and result.errors is not None:
        failed = result.summary.requests.failed
        typer.echo(f"{failed:,} requests failed: see {result.errors}", err=True)
    raise typer.Exit(result.exit_code)


def _check_also_written(summary: Path | None, report: Path | None) -> dict[str, Path]:
    """The files written after the run, by what they are called; checked before it."""
    from shoal.jobs import check_folder, check_written
    from shoal.report.figures import require_matplotlib
    from shoal.report.page import REPORT_FILES

    written: dict[str, Path] = {}
    if summary is not None:
        written |= check_written(summary, "--summary")
    if report is not None:
        require_matplotlib()
        check_folder(report, "--report")
        if report.exists():
            written |= {f"--report's {name}": report / name for name in REPORT_FILES}
    return written
