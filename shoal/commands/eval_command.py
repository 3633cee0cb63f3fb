"""`shoal eval`: lm-evaluation-harness's command."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.commands.exit_codes import errors_as_exit_codes


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
