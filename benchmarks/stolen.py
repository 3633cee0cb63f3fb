"""How much of the machine's time went to other guests of its host while something ran.

On a virtual machine the host may give a core to somebody else; Linux counts that as stolen time. A
run that lost much of it measures the neighbours.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
_STOLEN_COLUMN = 8


class StolenTime:
    """A context; afterwards `fraction` of all cores' time in it was stolen, 0 where unknown."""

    def __init__(self) -> None:
        self.fraction = 0.0

    def __enter__(self) -> StolenTime:
        self._began, self._before = time.perf_counter(), stolen_seconds()
        return self

    def __exit__(self, *exception: object) -> None:
        seconds = (time.perf_counter() - self._began) * (os.cpu_count() or 1)
        self.fraction = min(1.0, (stolen_seconds() - self._before) / seconds)


def stolen_seconds(stat: Path = STAT) -> float:
    """Stolen time of all cores since the machine started (Linux, proc(5)); 0 elsewhere."""
    try:
        fields = stat.read_text().splitlines()[0].split()
        return int(fields[_STOLEN_COLUMN]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0
