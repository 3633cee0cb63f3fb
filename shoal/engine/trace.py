"""What each iteration of a run held, for pictures and for checking forecasts against."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from shoal.scheduler import TokenBatch

TRACE_COLUMNS = ("seconds", "decode", "shared", "own", "running", "kv_blocks")


class IterationTrace:
    """A table with one row of 48 bytes per iteration.

    Columns: `seconds` from the start of the run to the iteration's end; `decode`, `shared` and
    `own`: tokens of the batch that continue an answer, fill a shared segment, or prefill a
    sequence's own prompt; `running` sequences and `kv_blocks` in use afterwards.
    """

    def __init__(self) -> None:
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._values) // len(TRACE_COLUMNS)

    @classmethod
    def of_rows(cls, rows: npt.NDArray[np.float64]) -> IterationTrace:
        """A trace from rows [iterations, columns]."""
        trace = cls()
        trace._values.frombytes(np.ascontiguousarray(rows, dtype=np.float64).tobytes())
        return trace

    def rows(self, first: int = 0) -> npt.NDArray[np.float64]:
        """The rows from iteration `first` on, float64 [iterations, columns]."""
        width = len(TRACE_COLUMNS)
        return np.array(self._values[first * width :]).reshape(-1, width)

    def add(self, batch: TokenBatch, seconds: float, running: int, kv_blocks: int) -> None:
        """Record an iteration."""
        shared = int(batch.chunks.count[batch.chunks.shared].sum())
        own = batch.num_tokens - batch.num_decodes - shared
        self._values.extend((seconds, batch.num_decodes, shared, own, running, kv_blocks))

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """One of `TRACE_COLUMNS`, float64 [iterations]."""
        return self.rows()[:, TRACE_COLUMNS.index(name)]
