"""What a job's parent process and its workers say to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.engine.run_stats import RunStats
from shoal.model.description import ModelDescription
from shoal.types import Completion, Int64Array, PlanFigures, RequestTable

# To a worker.


@dataclass(frozen=True)
class Configure:
    """Which model to run, and how; answered by `Configured`. May be said again before `Load`.

    Attributes:
        compared: the model's files are compared with the description's fingerprint: the worker may
            be on another machine, which has its own copy.
    """

    description: ModelDescription
    options: EngineOptions
    compared: bool = False


@dataclass(frozen=True)
class Load:
    """Load the weights, measure if need be, take the KV memory; answered by `Ready`."""


@dataclass(frozen=True)
class Assign:
    """Requests to run; answered by `Started`, `Update`s and `Ended`.

    Attributes:
        table: the requests.
        requests: int64 [R], their numbers in the table of the whole job.
    """

    table: RequestTable
    requests: Int64Array


@dataclass(frozen=True)
class Release:
    """Give up what has not begun, so that `parts` idle devices can run it.

    Answered by `Released`, with requests as in `Assign`; there may be none.
    """

    parts: int


@dataclass(frozen=True)
class Cancel:
    """Give up requests, int64 [R], numbered as in `Assign`; they come back completed."""

    requests: Int64Array


# From a worker.


@dataclass(frozen=True)
class Hello:
    """The process runs.

    Attributes:
        versions: see `shoal.devices.versions`.
    """

    versions: dict[str, str]


@dataclass(frozen=True)
class Configured:
    """Whether the model's speed is known (`measured`), or loading it will measure it."""

    measured: bool


@dataclass(frozen=True)
class Ready:
    """The engine waits for requests."""

    machine: Machine


@dataclass(frozen=True)
class Started:
    """What was assigned is planned."""

    planned: PlanFigures


@dataclass(frozen=True)
class Update:
    """What was done since the last update.

    Attributes:
        completions: the requests finished, numbered as in `Assign`.
        stats: of all that was assigned last, so far.
        trace: float64 [iterations, columns], the new rows of its `IterationTrace`.
    """

    completions: list[Completion]
    stats: RunStats
    trace: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ended:
    """All requests that were assigned and not released are finished."""


@dataclass(frozen=True)
class Released:
    """Requests given up before they began, int64 [R], ascending. There may be none."""

    requests: Int64Array


@dataclass(frozen=True)
class WorkerFailed:
    """An error that ends the run, or the loading."""

    error: Exception


@dataclass(frozen=True)
class WorkerDied:
    """The worker has ended; it never sends this, its transport does.

    Attributes:
        with_machine: its machine is gone, so that nothing speaks against the worker itself.
    """

    reason: str
    with_machine: bool = False


FromWorker = (
    Hello | Configured | Ready | Started | Update | Ended | Released | WorkerFailed | WorkerDied
)
ToWorker = Configure | Load | Assign | Release | Cancel
