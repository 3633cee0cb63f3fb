"""How long the request of each row is, for models that go by it (`LengthSwitch`)."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.batch import Chunks
from shoal.scheduler.state import RunState
from shoal.types import Int64Array, RequestTable


def row_lengths(
    chunks: Chunks, state: RunState, table: RequestTable, plan: Plan
) -> Int64Array | None:
    """By which length a row's frequencies go, if it is not its own position: int64 [T].

    The prompt's length; of a shared segment that of any user, since they are of one class. Of a
    sequence that was computed anew, one past the threshold. None: the model has no such switch.
    """
    if table.switch is None:
        return None
    own = state.running.sequence[chunks.slots]
    request = np.empty(len(chunks), dtype=np.int64)
    request[chunks.shared] = plan.segment_request[chunks.segments]
    request[chunks.own] = plan.sequence_request[own]
    lengths = table.offsets[request + 1] - table.offsets[request]
    restarted = np.zeros(len(chunks), dtype=np.bool_)
    restarted[chunks.own] = state.columns.restarted[own]
    return np.repeat(np.where(restarted, table.switch.threshold + 1, lengths), chunks.count)
