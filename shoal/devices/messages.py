"""What the front and its workers say to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.engine.engine import RunStats
from shoal.model.description import ModelDescription
from shoal.types import Completion, Int64Array, PlanFigures, RequestTable

# From the front to a worker.


@dataclass(frozen=True)
class Prepare:
    """Which model to run, and how; answered by `Prepared`. May be said again before `Load`."""

    description: ModelDescription
    options: EngineOptions


@dataclass(frozen=True)
class Load:
    """Load the weights, measure if need be, take the KV memory; answered by `Ready`."""


@dataclass(frozen=True)
class Piece:
    """Requests to run; answered by `Started`, `Update`s and `Ended`.

    Attributes:
        table: the requests.
        requests: int64 [R], their numbers in the front's table.
    """

    table: RequestTable
    requests: Int64Array


@dataclass(frozen=True)
class Spare:
    """Give up what has not begun, so that `parts` idle devices can run it; answered by `Gave`."""

    parts: int


# From a worker to the front.


@dataclass(frozen=True)
class Hello:
    """The process runs."""


@dataclass(frozen=True)
class Prepared:
    """Whether the model's speed is known (`measured`), or loading it will measure it."""

    measured: bool


@dataclass(frozen=True)
class Ready:
    """The engine waits for requests."""

    machine: Machine


@dataclass(frozen=True)
class Started:
    """A piece is planned."""

    planned: PlanFigures


@dataclass(frozen=True)
class Update:
    """What a piece did since the last update.

    Attributes:
        completions: the requests finished, under the front's numbers.
        stats: of the whole piece so far.
        trace: float64 [iterations, columns], the new rows of its `IterationTrace`.
    """

    completions: list[Completion]
    stats: RunStats
    trace: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ended:
    """All requests of the piece that were not given up are finished."""


@dataclass(frozen=True)
class Gave:
    """Requests given up before they began, int64 [R], ascending. There may be none."""

    requests: Int64Array


@dataclass(frozen=True)
class Failed:
    """An error that ends the run, or the loading."""

    error: Exception


@dataclass(frozen=True)
class Died:
    """The process has ended; never sent, but seen by the front."""

    reason: str


FromWorker = Hello | Prepared | Ready | Started | Update | Ended | Gave | Failed | Died
ToWorker = Prepare | Load | Piece | Spare
