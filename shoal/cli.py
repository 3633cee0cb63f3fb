"""The command line: its commands, which are in `shoal.commands`."""

from __future__ import annotations

import typer

from shoal.commands.class_options import with_options
from shoal.commands.eval_command import evaluate
from shoal.commands.plan_command import plan
from shoal.commands.run_command import run
from shoal.commands.serve_command import serve
from shoal.config import EngineOptions
from shoal.endpoints import EndpointOptions
from shoal.server.server_options import ServerOptions

app = typer.Typer(
    name="shoal",
    help="Push very large batches of requests through an open-weights language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(with_options(run, endpoints=EndpointOptions, options=EngineOptions))
app.command("plan")(with_options(plan, options=EngineOptions))
app.command(
    "eval",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)(evaluate)
app.command("serve")(with_options(serve, server=ServerOptions, options=EngineOptions))


def main() -> None:
    """The entry point."""
    app()
