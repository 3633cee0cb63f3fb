"""What the server and the clerk's process say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from shoal.server.messages.engine_messages import BatchTask, Done, LoadFailed, NotNow


@dataclass(frozen=True)
class CheckFile:
    """Look for what fails a file; answered by `FileChecked`.

    Attributes:
        url: the endpoint that its lines are to be for.
        most_requests: that it may hold.
    """

    batch: str
    path: Path
    url: str
    most_requests: int


@dataclass(frozen=True)
class GiveUp:
    """Write the files of a batch that is not run on: what it has, and what it has not.

    Attributes:
        code: why requests are not executed, see `shoal.results.unexecuted`.

    Answered by `Done`, `NotNow` or `CannotEnd`.
    """

    task: BatchTask
    code: str


@dataclass(frozen=True)
class FileChecked:
    """What was found.

    Attributes:
        model: what the requests call it.
        errors: as a batch object lists them.
    """

    batch: str
    requests: int
    model: str | None
    errors: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class CannotEnd:
    """The files of a batch cannot be written any more; `message` is for the log."""

    batch: str
    message: str


ToClerk: TypeAlias = CheckFile | GiveUp
FromClerk: TypeAlias = FileChecked | Done | NotNow | CannotEnd | LoadFailed
