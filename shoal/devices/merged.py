"""Several runs seen as one: their counts summed, their iterations in one trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
import numpy.typing as npt

from shoal.engine.run_stats import RunStats
from shoal.engine.trace import TRACE_COLUMNS, IterationTrace
from shoal.types import LengthCounts

_LEVELS = (TRACE_COLUMNS.index("running"), TRACE_COLUMNS.index("kv_blocks"))
_SHARES = ("within_10", "within_50", "within_90")


def added(parts: Iterable[RunStats]) -> RunStats:
    """Counts of runs one after another, or of devices side by side.

    Peaks are added too: what devices held at most, whenever each of them did.
    """
    total = RunStats()
    for part in parts:
        for field in fields(RunStats):
            value = getattr(part, field.name)
            if isinstance(value, int):
                setattr(total, field.name, getattr(total, field.name) + value)
        total.lengths = _lengths(total.lengths, part.lengths)
    return total


def one_after_another(before: RunStats, after: RunStats) -> RunStats:
    """Counts of one device that makes two runs in turn: the present is the second's."""
    total = added((before, after))
    total.running_sequences = after.running_sequences
    total.kv_bytes_in_use = after.kv_bytes_in_use
    total.peak_kv_bytes = max(before.peak_kv_bytes, after.peak_kv_bytes)
    return total


def _lengths(a: LengthCounts, b: LengthCounts) -> LengthCounts:
    answers = a.answers + b.answers
    shares = {
        name: (getattr(a, name) * a.answers + getattr(b, name) * b.answers) / max(answers, 1)
        for name in _SHARES
    }
    return LengthCounts(answers=answers, pilots=a.pilots + b.pilots, **shares)


def merged(traces: Sequence[npt.NDArray[np.float64]]) -> IterationTrace:
    """The iterations of all devices by the time they ended.

    `running` and `kv_blocks` are sums over the devices at that time.

    Args:
        traces: of each device, float64 [iterations, columns], in the order of time.
    """
    rows = np.concatenate(traces)
    device = np.repeat(np.arange(len(traces)), [len(trace) for trace in traces])
    order = np.argsort(rows[:, 0], kind="stable")
    rows, device = rows[order], device[order]
    for column in _LEVELS:
        change = np.zeros(len(rows))
        for number in range(len(traces)):
            mine = device == number
            change[mine] = np.diff(rows[mine, column], prepend=0.0)
        rows[:, column] = np.cumsum(change)
    return IterationTrace.of_rows(rows)
