"""The arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from shoal.errors import OptionError

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


def asked_choices(labels: str | None, choices: Path | None) -> Sequence[str] | Path | None:
    """What all answers are chosen among, of one option or the other."""
    if labels is None:
        return choices
    if choices is not None:
        raise OptionError("--labels and --choices say the same thing; give one of them.")
    return labels.split(",")
