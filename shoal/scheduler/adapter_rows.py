"""Which rows of a token batch run with which adapter."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.batch import AdapterRows, Chunks
from shoal.scheduler.state import RunState
from shoal.types import Int64Array, RequestTable


def adapter_rows(
    chunks: Chunks, state: RunState, table: RequestTable, plan: Plan
) -> AdapterRows | None:
    """The runs of a batch's rows; None: no request has an adapter."""
    if state.adapters is None or table.adapter is None:
        return None
    request = np.empty(len(chunks), dtype=np.int64)
    request[chunks.shared] = plan.segment_request[chunks.segments]
    request[chunks.own] = state.columns.request[state.running.sequence[chunks.slots]]
    adapter: Int64Array = table.adapter[request].astype(np.int64)
    heads = np.flatnonzero(np.diff(adapter, prepend=-2))
    starts = np.append(chunks.row_starts[:-1][heads], chunks.row_starts[-1])
    return AdapterRows(adapter[heads], starts, state.adapters.resident)
