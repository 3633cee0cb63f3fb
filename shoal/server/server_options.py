"""Options of `shoal serve`: one frozen class, the single source of defaults and help."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from shoal.config import EngineOptions, parse_bytes
from shoal.errors import OptionError

_LEAST = {"port": 0, "max_requests": 1, "max_batches": 1, "max_rate": 1}


class LogFormat(StrEnum):
    """Of the log on standard error: `json` is a JSON object per line."""

    text = "text"
    json = "json"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How the server listens, what it keeps and what it allows."""

    data_dir: Annotated[Path, "Files, journals and the database; made if it is missing."] = Path(
        "shoal-data"
    )
    host: Annotated[str, "Address to listen on."] = "127.0.0.1"
    port: Annotated[int, "Port to listen on; 0 takes a free one."] = 8000
    database: Annotated[
        str | None, "SQLAlchemy URL; SQLite in the data directory if not given."
    ] = None
    max_file_size: Annotated[str, "Largest upload."] = "200MB"
    max_requests: Annotated[int, "Most requests in one batch."] = 50_000
    max_batches: Annotated[int, "Most batches of one key that have not ended."] = 1000
    max_rate: Annotated[int, "Most requests per second of one key, on average."] = 200
    merge: Annotated[bool, "Run batches that wait for the same model in one plan."] = True
    merge_wait: Annotated[
        float, "Seconds without a further batch, after which those that wait begin."
    ] = 0.5
    log_format: Annotated[LogFormat, "How the log is written."] = LogFormat.text

    def __post_init__(self) -> None:
        parse_bytes(self.max_file_size)
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, not {getattr(self, name)}.")
        if not 0 <= self.merge_wait <= 3600:
            raise OptionError(f"merge_wait must be from 0 to 3600, not {self.merge_wait}.")
        if self.port > 65535:
            raise OptionError(f"port must be at most 65535, not {self.port}.")

    @property
    def max_file_bytes(self) -> int:
        """`max_file_size` in bytes."""
        return parse_bytes(self.max_file_size)

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.data_dir / 'shoal.db'}"


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served.

    Attributes:
        model: a folder or a Hub id; None: the bundled model.
        options: of the engine.
        names: further names for `body.model`; `*` accepts any.
        api_keys: one of them must come with each request; none: no key is asked for.
        log_format: of the engine's process.
    """

    model: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    names: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    log_format: LogFormat = LogFormat.text
