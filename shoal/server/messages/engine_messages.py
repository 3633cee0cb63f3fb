"""What the server and the engine's process say to each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from shoal.server.messages.telemetry import Telemetry

FOREST_FILE = "forest.json"
"""In a batch's folder: the picture of its run's plan, see `shoal.server.workers.forest_file`."""


@dataclass(frozen=True)
class BatchTask:
    """A batch's job: its id and its files."""

    batch: str
    input: Path
    output: Path
    errors: Path


@dataclass(frozen=True)
class RunBatches:
    """Run batches together, or go on with them; answered by one message for each, and `RunEnded`.

    All are of one kind: they generate, or ask for the same of a model that does not.

    Attributes:
        texts_shown: whether each may be shown how the others' prompts begin: all are one key's, and
            no input file is deleted.
    """

    tasks: Sequence[BatchTask]
    texts_shown: bool = True


@dataclass(frozen=True)
class Stop:
    """Stop a batch after the iteration under way; what it has is journaled."""

    batch: str


@dataclass(frozen=True)
class EngineReady:
    """The model is loaded; `kv_bytes` is the size of its KV pool."""

    kv_bytes: int


@dataclass(frozen=True)
class LoadFailed:
    """The model cannot be loaded, ever."""

    message: str


@dataclass(frozen=True)
class BatchProgress:
    """How many requests of a batch have a result, and how many of these failed."""

    batch: str
    done: int
    failed: int


@dataclass(frozen=True)
class Progress:
    """How far batches are that have moved, and the run; see `shoal.progress.ProgressState`."""

    batches: Sequence[BatchProgress]
    tokens_per_second: float
    kv_bytes: int


@dataclass(frozen=True)
class Done:
    """A batch's files are in place."""

    batch: str
    completed: int
    failed: int
    usage: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stopped:
    """A batch was stopped and can be resumed."""

    batch: str


@dataclass(frozen=True)
class NotNow:
    """A batch cannot go on at present: the disk is full, or another process still has its files."""

    batch: str
    message: str


@dataclass(frozen=True)
class BatchRefused:
    """A batch cannot be run at all; `error` is what it lists, `message` is for the log."""

    batch: str
    error: dict[str, Any]
    message: str


@dataclass(frozen=True)
class RunEnded:
    """All batches of a run have been answered.

    Attributes:
        prompt_tokens: of all requests that ran.
        computed_tokens: those of them that had to be computed.
    """

    batches: int
    prompt_tokens: int
    computed_tokens: int


ToEngine: TypeAlias = RunBatches | Stop
FromEngine: TypeAlias = (
    EngineReady
    | LoadFailed
    | Progress
    | Telemetry
    | Done
    | Stopped
    | NotNow
    | BatchRefused
    | RunEnded
)
