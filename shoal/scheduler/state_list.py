"""The state list of a token batch: which states its chunks go on from, and where theirs go."""

from __future__ import annotations

import numpy as np

from shoal.scheduler.batch import Chunks
from shoal.scheduler.state import RunState
from shoal.state_work import StateWork
from shoal.types import BoolArray, Int64Array


def state_list(chunks: Chunks, state: RunState) -> StateWork | None:
    """The states of a batch's chunks; None: the model has none.

    A chunk goes on from its owner's state. Where it begins its owner it goes on from that of the
    segment above, which may be one that this batch completes.
    """
    states = state.states
    if states is None:
        return None
    above = np.empty(len(chunks), dtype=np.int64)
    above[chunks.shared] = state.segments.parent[chunks.segments]
    above[chunks.own] = state.running.segment[chunks.slots]
    target = np.empty(len(chunks), dtype=np.int64)
    target[chunks.shared] = states.of_segments(chunks.segments)
    target[chunks.own] = states.of_slots(chunks.slots)
    source, begins = target.copy(), chunks.first == 0
    source[begins] = states.of_segments(above[begins])
    levels = _levels(chunks, above, begins)
    return StateWork(chunks.row_starts, source, target, levels, _generated(chunks, state))


def _generated(chunks: Chunks, state: RunState) -> BoolArray:
    prompt = np.full(len(chunks), np.iinfo(np.int64).max)
    prompt[chunks.own] = state.running.own_prompt[chunks.slots]
    index = np.arange(int(chunks.count.sum())) - np.repeat(
        chunks.row_starts[:-1] - chunks.first, chunks.count
    )
    generated: BoolArray = index >= np.repeat(prompt, chunks.count)
    return generated


def _levels(chunks: Chunks, above: Int64Array, begins: BoolArray) -> Int64Array:
    """`StateWork.level`; an outer segment stands before the inner ones."""
    level = np.zeros(len(chunks), dtype=np.int64)
    of_segment: dict[int, int] = {}
    shared = np.flatnonzero(chunks.shared)
    for chunk, segment in zip(shared.tolist(), chunks.segments.tolist(), strict=True):
        if begins[chunk]:
            level[chunk] = of_segment.get(int(above[chunk]), -1) + 1
        of_segment[segment] = int(level[chunk])
    if of_segment:
        own = np.flatnonzero(chunks.own & begins)
        level[own] = [of_segment.get(segment, -1) + 1 for segment in above[own].tolist()]
    return level
