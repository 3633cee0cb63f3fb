"""How far each device of a run is, and what it has been given."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shoal.devices.merged import one_after_another
from shoal.devices.suspects import Group
from shoal.engine.run_stats import RunStats
from shoal.types import Int64Array, PlanFigures


@dataclass
class AssignedPart:
    """What a device has been given.

    Attributes:
        first: it is a part of the division that the run began with.
        planned: its plan; as the division expects it, until the device has told.
        told: whether it has.
        group: of suspects, which it consists of.
    """

    requests: Int64Array
    first: bool
    planned: PlanFigures
    told: bool = False
    group: Group | None = None


@dataclass
class DeviceProgress:
    """A device in a run."""

    ready: bool
    busy: bool = False
    retired: bool = False
    used: bool = False
    """Whether it is there: it has been given requests since its machine came."""
    deaths: float = 0
    """Since it last completed a request."""
    assigned: AssignedPart | None = None
    assigned_at: float = 0.0
    started_at: float = 0.0
    """Seconds of the run."""
    busy_seconds: float = 0.0
    before: RunStats = field(default_factory=RunStats)
    """Of what was assigned before."""
    now: RunStats = field(default_factory=RunStats)
    trace: list[npt.NDArray[np.float64]] = field(default_factory=list)

    @property
    def suspects(self) -> bool:
        """Whether it was given nothing but suspects."""
        return self.assigned is not None and self.assigned.group is not None

    def end(self, seconds: float) -> None:
        """What was assigned is over, finished or not."""
        if self.busy:
            self.busy_seconds += seconds - self.assigned_at
        self.before, self.now = one_after_another(self.before, self.now), RunStats()
        self.before.running_sequences = self.before.kv_bytes_in_use = 0
        self.busy = False
