"""The rows of a token batch: which token each runs, at which position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shoal.planner import Plan
from shoal.scheduler.batch import Chunks, Feedback
from shoal.scheduler.state import RunState
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable

_NO_END = np.int64(2**62)
"""Exceeds every length: a shared segment holds nothing but prompt."""


class AwaitedTokens(NamedTuple):
    """Slots whose last token is not known yet, columns [slots].

    Attributes:
        unknown: bool, whether it is not.
        sample: int64, which sample of the batch under way it will be; only where unknown.
    """

    unknown: BoolArray
    sample: Int64Array

    @classmethod
    def of(cls, slots: Int64Array, capacity: int) -> AwaitedTokens:
        """Those of a batch that samples for `slots`, int64 [S]."""
        unknown, sample = np.zeros(capacity, dtype=np.bool_), np.empty(capacity, dtype=np.int64)
        unknown[slots] = True
        sample[slots] = np.arange(len(slots))
        return cls(unknown, sample)


@dataclass(frozen=True)
class TokenRows:
    """Columns of `TokenBatch`, and where each row is in its chunk.

    Attributes:
        token_ids, positions, feedback: see `TokenBatch`.
        chunk: int64 [T], each row's chunk.
        index: int64 [T], and its token among its owner's.
    """

    token_ids: Int32Array
    positions: Int32Array
    feedback: Feedback
    chunk: Int64Array
    index: Int64Array


def token_rows(
    chunks: Chunks,
    state: RunState,
    table: RequestTable,
    plan: Plan,
    awaited: AwaitedTokens | None,
) -> TokenRows:
    """The rows of some chunks, one for each of their tokens.

    Args:
        awaited: tokens that a batch under way will give; None: all are known.
    """
    running = state.running
    chunk = np.repeat(np.arange(len(chunks)), chunks.count)
    index = np.arange(len(chunk)) - chunks.row_starts[chunk] + chunks.first[chunk]
    before, request = _prompt_of(chunks, state, plan)
    positions = before[chunk] + index

    # What a chunk of a segment has in these columns is never used.
    slot = _spread(chunks.own, chunks.slots, 0)
    prompt_end = _spread(chunks.own, running.own_prompt[chunks.slots], _NO_END)
    from_prompt = index < prompt_end[chunk]
    # The token sampled last is looked up by slot, in one go: every decode has one. Tokens before it
    # are computed only after a preemption or a failure, and found one by one.
    newest = (chunks.own & running.decoding[slot])[chunk]
    source = table.offsets[request][chunk] + positions
    token_ids = table.tokens[np.where(from_prompt, source, 0)]
    rows = np.flatnonzero(newest)
    newest_slots = slot[chunk[rows]]
    token_ids[rows] = running.last_token[newest_slots]
    for row in np.flatnonzero(~from_prompt & ~newest).tolist():
        owner = slot[chunk[row]]
        token_ids[row] = state.generated.token(
            int(running.sequence[owner]), int(index[row] - running.own_prompt[owner])
        )
    feedback = Feedback.none()
    if awaited is not None:
        unknown = awaited.unknown[newest_slots]
        feedback = Feedback(rows[unknown], awaited.sample[newest_slots[unknown]])
        token_ids[feedback.rows] = 0
    return TokenRows(token_ids, positions.astype(np.int32), feedback, chunk, index)


def _spread(chosen: BoolArray, values: Int64Array, other: np.int64 | int) -> Int64Array:
    """A column with `values` where `chosen`, and `other` elsewhere."""
    column = np.full(len(chosen), other, dtype=np.int64)
    column[chosen] = values
    return column


def _prompt_of(chunks: Chunks, state: RunState, plan: Plan) -> tuple[Int64Array, Int64Array]:
    """Per chunk: prompt tokens before its owner's first, and the request they come from."""
    before = np.empty(len(chunks), dtype=np.int64)
    request = np.empty(len(chunks), dtype=np.int64)
    before[chunks.shared] = state.segments.start[chunks.segments]
    before[chunks.own] = state.running.shared[chunks.slots]
    request[chunks.shared] = plan.segment_request[chunks.segments]
    request[chunks.own] = plan.sequence_request[state.running.sequence[chunks.slots]]
    return before, request
