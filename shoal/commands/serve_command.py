"""`shoal serve`: the server, until it is stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.commands.shared_arguments import Model, Names
from shoal.config import EngineOptions
from shoal.server.server_options import Served, ServerOptions


def serve(
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
    from shoal.server.serve import serve as serve_requests

    names, keys = tuple(served_model_name or ()), tuple(api_key or ())
    served = Served(
        model=model, options=options, names=names, api_keys=keys, log_format=server.log_format
    )
    serve_requests(server, served)
