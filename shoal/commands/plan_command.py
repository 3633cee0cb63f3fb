"""`shoal plan`: a job explained before it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console

from shoal.commands.shared_arguments import (
    ChoicesFile,
    Labels,
    Model,
    Names,
    PlanInput,
    SchemaFile,
    TableFile,
    TemplateFile,
    asked_choices,
)
from shoal.config import EngineOptions
from shoal.errors import InvalidRequestError

if TYPE_CHECKING:
    from shoal.jobs import PlannedJob
    from shoal.report.explain import PlanReport

MOST_ERRORS = 5
"""Invalid lines that `shoal plan` shows."""


def plan(
    options: EngineOptions,
    input: PlanInput = None,
    table: TableFile = None,
    template: TemplateFile = None,
    schema: SchemaFile = None,
    labels: Labels = None,
    choices: ChoicesFile = None,
    model: Model = None,
    served_model_name: Names = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the explanation as a page too.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl|parquet",
            help="Results of an earlier run, to compare max_tokens with what was generated.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Most tokens each answer may have; for a file of token ids only."
        ),
    ] = None,
) -> None:
    """Explain a job before it runs: prefixes, savings, memory, mistakes. Loads no weights."""
    from shoal.jobs import check_files, check_written, plan_job, readable_source
    from shoal.report.plan_page import write_plan_page

    if html is not None:
        given = {"INPUT": input, "--table": table, "--template": template, "--schema": schema}
        given |= {"--results": results, "--choices": choices}
        reads = {name: path for name, path in given.items() if path}
        check_files(reads, check_written(html, "--html"))
    with readable_source(input, table, template) as (path, field_order):
        names = served_model_name or ()
        asked = asked_choices(labels, choices)
        job = plan_job(path, model, options, names, results, max_tokens, schema, asked)
    report = _plan_report(job)
    if html is not None:
        write_plan_page(html, (table or input or path).name, report)
    if json:
        known = {} if field_order is None else {"field_order": asdict(field_order)}
        typer.echo(orjson.dumps(report.summary() | known).decode())
        return
    console = Console()
    console.print(report)
    if field_order is not None:
        text = f"Fields: {field_order}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    _print_rejected(console, job.rejected)


def _plan_report(job: PlannedJob) -> PlanReport:
    """What is told of a planned job."""
    from shoal.report.excerpts import decoder
    from shoal.report.explain import PlanReport
    from shoal.report.plan_facts import PlanFacts

    return PlanReport(
        table=job.table,
        plan=job.whole,
        facts=PlanFacts(
            requests=len(job.table),
            invalid=len(job.rejected),
            savings=job.savings,
            figures=job.figures,
            machine=job.machine,
            kv_peak_bytes=max((run.kv_peak_bytes for run in job.runs), default=0),
            kv_capacity_source=job.kv_capacity.source,
            weights=str(job.description.stored or ""),
            orders=job.orders,
            device_seconds=tuple(share.seconds for share in job.shares),
            device_kv_peak_bytes=tuple(run.kv_peak_bytes for run in job.runs),
            read_seconds=job.read_seconds,
            plan_seconds=job.plan_seconds,
            diagnose_seconds=job.diagnose_seconds,
            adapters=job.adapters,
        ),
        diagnoses=job.diagnoses,
        decode=decoder(job.description.tokenizer),
    )


def _print_rejected(console: Console, rejected: list[tuple[int, InvalidRequestError]]) -> None:
    for line, error in sorted(rejected, key=lambda found: found[0])[:MOST_ERRORS]:
        console.print(f"line {line}: {error}", markup=False, highlight=False, soft_wrap=True)
    if len(rejected) > MOST_ERRORS:
        console.print(f"... and {len(rejected) - MOST_ERRORS:,} more invalid lines")
