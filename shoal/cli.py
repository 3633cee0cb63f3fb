"""The command line, as thin as possible: options in, one call, an exit code out."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import orjson
import typer
from rich.console import Console

from shoal.config import EngineOptions, option_help
from shoal.endpoints import EndpointOptions
from shoal.errors import Interrupted, InvalidRequestError, OptionError, ShoalError
from shoal.server.server_options import Served, ServerOptions

if TYPE_CHECKING:
    from shoal.jobs import PlannedJob
    from shoal.report.explain import PlanReport

METAVARS = {"kv_memory": "SIZE", "max_file_size": "SIZE", "host": "ADDRESS", "database": "URL"}
METAVARS |= {"endpoint": "URL", "endpoint_model": "NAME", "endpoint_concurrency": "N"}
METAVARS |= dict.fromkeys(("endpoint_timeout", "endpoint_patience"), "SECONDS")
METAVARS |= {"data_dir": "DIR", "ray": "ADDRESS"} | dict.fromkeys(
    ("token_budget", "max_model_len", "devices", "tensor_parallel", "ray_actors", "ray_cpus"), "N"
)
METAVARS |= dict.fromkeys(("port", "max_requests", "max_batches", "max_rate"), "N")
METAVARS |= {"merge_wait": "SECONDS"}
MOST_ERRORS = 5
"""Invalid lines that `shoal plan` shows."""
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="shoal",
    help="Push very large batches of requests through an open-weights language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PlanInput = Annotated[
    Path | None,
    typer.Argument(
        metavar="INPUT.jsonl|arrow|npy",
        help="Batch API request lines, also .gz, .zst or -; or prompts as token ids.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="PATH|HUB_ID", help="The model; the bundled shoal-tiny if not given."),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--served-model-name",
        metavar="NAME",
        help="A further name for `body.model`; repeatable; '*' accepts any.",
    ),
]


BatchFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="INPUT.jsonl",
        help="Batch API request lines, also .gz, .zst or - for standard input; or give --table.",
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE.parquet|csv",
        help="A table, one request per row, instead of INPUT.jsonl.",
    ),
]
TemplateFile = Annotated[
    Path | None,
    typer.Option("--template", metavar="FILE.toml", help="How a row of the table is asked about."),
]
SchemaFile = Annotated[
    Path | None,
    typer.Option(
        "--schema",
        metavar="FILE.json",
        help="JSON schema of the answers to requests that ask for no form of their own.",
    ),
]
Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="A,B,..",
        help="Score these answers instead of generating one; the most probable is the answer.",
    ),
]
ChoicesFile = Annotated[
    Path | None,
    typer.Option(
        "--choices",
        metavar="FILE",
        help="The same from a file: one answer per line, or a JSON array in a file named *.json.",
    ),
]
Restart = Annotated[bool, typer.Option("--restart", help="Start over instead of resuming.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


@contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn our errors into one line on standard error and the exit code that says their kind."""
    try:
        yield
    except Interrupted as interruption:
        code, message = EXIT_INTERRUPTED, str(interruption)
    except OptionError as error:
        code, message = EXIT_USAGE, str(error)
    except ShoalError as error:
        code, message = EXIT_FAILED, str(error)
    except OSError as error:  # whatever the system refuses has a file and a reason
        code, message = EXIT_FAILED, _in_words(error)
    else:
        return
    typer.echo(f"shoal: {message}", err=True)
    raise typer.Exit(code)


def _in_words(error: OSError) -> str:
    where = "" if error.filename is None else f" {str(error.filename)[:300]!r}"
    what = f"the system refused{where}: {error.strerror or error}."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{what} Allow more open files: ulimit -n 1024"
    return f"{what} When that is mended, run the same command again."


def with_engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of `EngineOptions`, passed on as `options`."""
    return _with_options(command, options=EngineOptions)


def _with_options(command: Callable[..., None], **classes: Any) -> Callable[..., None]:
    """Give a command one option per field of each of these classes, whose objects it is given."""
    signature = inspect.signature(command)
    own = [p for name, p in signature.parameters.items() if name not in classes]
    further = {name: _parameters(cls) for name, cls in classes.items()}

    def wrapper(**values: Any) -> None:
        with errors_as_exit_codes():
            made = {
                name: cls(**{p.name: values.pop(p.name) for p in further[name]})
                for name, cls in classes.items()
            }
            command(**values, **made)

    resolved = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=resolved[p.name], kind=p.KEYWORD_ONLY) for p in own]
    parameters = [*own, *(p for group in further.values() for p in group)]
    # typer reads the signature; mypy knows no such attribute of a function.
    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


def _parameters(cls: Any) -> list[inspect.Parameter]:
    """The fields of an options class, as typer takes them."""
    hints, helps = get_type_hints(cls), option_help(cls)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                hints[field.name],
                typer.Option(
                    *_flag(field.name, field.default),
                    help=helps[field.name],
                    metavar=METAVARS.get(field.name),
                ),
            ],
        )
        for field in fields(cls)
    ]


def _flag(name: str, default: object) -> tuple[str, ...]:
    """The name of an option that takes no value, and its opposite if it is on by default."""
    if not isinstance(default, bool):
        return ()
    option = name.replace("_", "-")
    return (f"--{option}/--no-{option}",) if default else (f"--{option}",)


def _run(
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
        choices=_choices(labels, choices),
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


app.command("run")(_with_options(_run, endpoints=EndpointOptions, options=EngineOptions))


def _choices(labels: str | None, choices: Path | None) -> Sequence[str] | Path | None:
    """What all answers are chosen among, of one option or the other."""
    if labels is None:
        return choices
    if choices is not None:
        raise OptionError("--labels and --choices say the same thing; give one of them.")
    return labels.split(",")


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


@app.command()
@with_engine_options
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
        asked = _choices(labels, choices)
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
        ),
        diagnoses=job.diagnoses,
        decode=decoder(job.description.tokenizer),
    )


def _print_rejected(console: Console, rejected: list[tuple[int, InvalidRequestError]]) -> None:
    for line, error in sorted(rejected, key=lambda found: found[0])[:MOST_ERRORS]:
        console.print(f"line {line}: {error}", markup=False, highlight=False, soft_wrap=True)
    if len(rejected) > MOST_ERRORS:
        console.print(f"... and {len(rejected) - MOST_ERRORS:,} more invalid lines")


@app.command(
    "eval",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENTS", help="Those of lm_eval; see `shoal eval run --help`."),
    ] = None,
) -> None:
    """Run lm-evaluation-harness with this engine: its own command, to which all arguments go.

    The model is `shoal`, unless --model names another.
    """
    from shoal.integrations.lm_eval_command import run_lm_eval

    with errors_as_exit_codes():
        run_lm_eval(arguments or [])


def _serve(
    server: ServerOptions,
    options: EngineOptions,
    model: Model = None,
    served_model_name: Names = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            envvar="SHOAL_API_KEY",
            help="A key that requests must carry; repeatable. Each sees its own files only.",
        ),
    ] = None,
) -> None:
    """Serve OpenAI's Files and Batches API. Stopped in any way, it goes on when started again."""
    from shoal.server.packages import require_packages

    require_packages()
    from shoal.server.serve import serve

    names, keys = tuple(served_model_name or ()), tuple(api_key or ())
    served = Served(
        model=model, options=options, names=names, api_keys=keys, log_format=server.log_format
    )
    serve(server, served)


app.command("serve")(_with_options(_serve, server=ServerOptions, options=EngineOptions))


def main() -> None:
    """The entry point."""
    app()
