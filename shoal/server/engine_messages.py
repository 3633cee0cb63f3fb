"""What the server and the engine's process say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from shoal.server.telemetry import Telemetry


@dataclass(frozen=True)
class RunBatch:
    """Run a batch, or go on with it."""

    batch: str
    input: Path
    output: Path
    errors: Path


@dataclass(frozen=True)
class Stop:
    """Stop the batch after the iteration under way; what it has is journaled."""

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
class Progress:
    """How far a batch is; see `shoal.progress.ProgressState`."""

    batch: str
    done: int
    failed: int
    tokens: int
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
    """A batch cannot be run at all; `message` is for the log."""

    batch: str
    message: str


ToEngine: TypeAlias = RunBatch | Stop
FromEngine: TypeAlias = (
    EngineReady | LoadFailed | Progress | Telemetry | Done | Stopped | NotNow | BatchRefused
)
