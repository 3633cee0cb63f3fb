"""Which servers a job is sent to, and how; and which other options cannot hold then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any
from urllib.parse import urlsplit

from shoal.config import EngineOptions, OrderOption
from shoal.errors import OptionError

_KEPT = {"max_model_len", "order", "trust_remote_code"}
"""Options of the engine that mean something without one."""


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """Servers of OpenAI's API that run the requests, instead of an engine of ours.

    Raises:
        OptionError: one of them is no URL, is given twice, or carries a password; or a number is
            not positive.
    """

    endpoint: Annotated[
        list[str] | None,
        "Send the requests to this server (vLLM, SGLang, llama.cpp, ..); repeatable. Its key is "
        "taken from OPENAI_API_KEY.",
    ] = None
    endpoint_model: Annotated[
        str | None, "What the servers call the model; the first of /v1/models if not given."
    ] = None
    endpoint_concurrency: Annotated[
        int, "Most requests that a server has at once; how many it gets is found out below that."
    ] = 256
    endpoint_timeout: Annotated[
        float, "Seconds a server may take to answer a request before it is sent again."
    ] = 600.0
    endpoint_patience: Annotated[
        float, "Seconds a server may be out of reach before others get its requests."
    ] = 30.0

    def __post_init__(self) -> None:
        urls = [base_url(given) for given in self.endpoint or ()]
        object.__setattr__(self, "endpoint", urls)
        if twice := {url for url in urls if urls.count(url) > 1}:
            raise OptionError(f"--endpoint {min(twice)} is given twice.")
        for name in ("endpoint_concurrency", "endpoint_timeout", "endpoint_patience"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{flag(name)} must be above 0, not {getattr(self, name)!r}.")
        if not urls and (given := self._given()):
            raise OptionError(f"{given[0]} needs --endpoint: it says how a server is used.")

    def __bool__(self) -> bool:
        return bool(self.endpoint)

    @property
    def urls(self) -> list[str]:
        """The servers, without `/v1`."""
        return self.endpoint or []

    @property
    def identity(self) -> dict[str, Any]:
        """What must not change between runs of one job. Servers may: they come and go."""
        return {"answered_by": "endpoints", "endpoint_model": self.endpoint_model} if self else {}

    def check_beside(self, options: EngineOptions, further: Mapping[str, object]) -> None:
        """Refuse options that a server decides, or that nothing would honour.

        Args:
            further: options of the job that need an engine of ours, None where not given.

        Raises:
            OptionError: names the first of them.
        """
        if not self:
            return
        default = EngineOptions()
        given = [
            flag(each.name)
            for each in fields(EngineOptions)
            if each.name not in _KEPT and getattr(options, each.name) != getattr(default, each.name)
        ]
        given += [name for name, value in further.items() if value is not None]
        if given:
            raise OptionError(
                f"{given[0]} and --endpoint do not go together: it is for an engine of Shoal, and "
                "a server has its own. Leave it away, or set it where the server is started."
            )
        if options.order is OrderOption.blend:
            raise OptionError(
                "--order blend mixes groups by what this machine is slow at; with --endpoint give "
                "ratio or input, which keep the users of a prefix together."
            )

    def _given(self) -> list[str]:
        kinds = fields(self)
        return [flag(f.name) for f in kinds[1:] if getattr(self, f.name) != f.default]


def flag(name: str) -> str:
    """A field's name on the command line."""
    return f"--{name.replace('_', '-')}"


def base_url(given: str) -> str:
    """The URL that `/v1/..` is appended to.

    Raises:
        OptionError: it is none.
    """
    try:
        parts = urlsplit(given)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        sound = False
    if not sound:
        raise OptionError(
            f"--endpoint {given!r} is no URL of a server; give one like http://localhost:8000/v1."
        )
    if parts.username is not None or parts.password is not None:
        raise OptionError(
            "--endpoint must not carry a name or a password; put the server's key into the "
            "environment as OPENAI_API_KEY."
        )
    if parts.query or parts.fragment:
        raise OptionError(f"--endpoint {given!r} must end before its ? or #.")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"
