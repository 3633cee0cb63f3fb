"""A command's options, made from the fields of options classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from shoal.commands.exit_codes import errors_as_exit_codes
from shoal.config import option_help

METAVARS = {"kv_memory": "SIZE", "max_file_size": "SIZE", "host": "ADDRESS", "database": "URL"}
METAVARS |= {"endpoint": "URL", "endpoint_model": "NAME", "endpoint_concurrency": "N"}
METAVARS |= dict.fromkeys(("endpoint_timeout", "endpoint_patience"), "SECONDS")
METAVARS |= {"data_dir": "DIR", "ray": "ADDRESS"} | dict.fromkeys(
    ("token_budget", "max_model_len", "devices", "tensor_parallel", "ray_actors", "ray_cpus"), "N"
)
METAVARS |= dict.fromkeys(("port", "max_requests", "max_batches", "max_rate"), "N")
METAVARS |= {"merge_wait": "SECONDS", "lora": "NAME=PATH", "lora_memory": "SIZE"}


def with_options(command: Callable[..., None], **classes: Any) -> Callable[..., None]:
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
                list[str] if hints[field.name] == Sequence[str] else hints[field.name],
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
