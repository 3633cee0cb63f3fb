"""Which tokens a batch computes: decodes, then prefill chunks up to the token budget."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shoal.scheduler.batch import Chunks
from shoal.scheduler.running import RunningSequences
from shoal.scheduler.segments import SegmentTable
from shoal.scheduler.state import RunState
from shoal.types import BoolArray, Int64Array

SCORED_ROWS = 256
"""Most rows per batch that score a prompt: each takes logits over the whole vocabulary."""
_TILE = 16
"""A prefill chunk that does not reach its end is cut to a multiple of this many tokens."""
_BEHIND_ALL = np.int64(2**62)
"""Sorts after the first position of every segment."""


@dataclass
class _Columns:
    """Chunks of segments, or of slots, as they are found."""

    owner: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)

    def add(self, owner: int, first: int, count: int) -> None:
        """One more."""
        self.owner.append(owner)
        self.first.append(first)
        self.count.append(count)


class _Prefill:
    """Takes chunks while tokens are left."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self.shared, self.own = _Columns(), _Columns()

    def take(self, columns: _Columns, owner: int, first: int, missing: int) -> bool:
        """Schedule what fits of the missing tokens; whether that was all."""
        count = min(missing, self.left)
        # Kernels take rows in tiles: a cut elsewhere would leave one more of them partly empty.
        if _TILE <= count < missing:
            count -= count % _TILE
        if count > 0:
            columns.add(owner, first, count)
            self.left -= count
        return count == missing


def choose_chunks(
    state: RunState, scored: BoolArray, decoding: Int64Array, prefilling: Int64Array, budget: int
) -> tuple[Chunks, list[int]]:
    """A token of each decoding slot, then of the prefilling ones in their order what fits.

    Args:
        scored: bool [Q], sequences whose prompts are scored.

    Returns:
        The chunks in row order; and the slots that have nothing to compute, but are to sample:
        their prompt is all shared, and will be computed after this batch.
    """
    prefill, prefix_only = _prefill(state, scored, prefilling, budget - len(decoding))
    running, shared, own = state.running, prefill.shared, prefill.own
    num_segments, num_decodes = len(shared.owner), len(decoding)
    segments = np.array(shared.owner, dtype=np.int64)
    slots = np.concatenate([decoding, np.array(own.owner, dtype=np.int64)])
    decoded = running.computed[decoding], np.ones(num_decodes, dtype=np.int64)
    first, count = (
        np.concatenate([np.array(of_shared, np.int64), column, np.array(of_own, np.int64)])
        for of_shared, column, of_own in zip(
            (shared.first, shared.count), decoded, (own.first, own.count), strict=True
        )
    )
    order = _row_order(segments, slots, state.segments, running)
    is_shared = order < num_segments
    return Chunks(
        shared=is_shared,
        segments=segments[order[is_shared]],
        slots=slots[order[~is_shared] - num_segments],
        first=first[order],
        count=count[order],
    ), prefix_only


def _row_order(
    segments: Int64Array, slots: Int64Array, table: SegmentTable, running: RunningSequences
) -> Int64Array:
    """The order of the chunks of segments, then slots, that makes users of a segment neighbours.

    By sequence, since in the plan whoever stands between two users of a segment uses it too. A
    segment's own tokens stand with its first user, the outer segment first: anywhere else they
    would part the rows of its users, which include those of the segments inside it.
    """
    sequence = np.concatenate([table.first_user[segments], running.sequence[slots]])
    start = np.concatenate([table.start[segments], np.full(len(slots), _BEHIND_ALL)])
    return np.lexsort((start, sequence))


def _prefill(
    state: RunState, scored: BoolArray, slots: Int64Array, tokens: int
) -> tuple[_Prefill, list[int]]:
    """Chunks for prefilling slots within so many tokens, and the slots without tokens to compute.

    A segment is scheduled with the first of its users. It need not be complete before theirs are:
    in each layer, all keys and values of a batch are written before anything attends to them. So
    what matters is that a slot gets nothing while a segment above it is cut short.
    """
    running, segments = state.running, state.segments
    prefill, prefix_only = _Prefill(tokens), list[int]()
    scored_rows = SCORED_ROWS
    seen: set[int] = set()
    for slot in slots.tolist():
        for segment in segments.path(int(running.segment[slot])):
            missing = segments.missing_tokens(segment)
            if missing == 0 or segment in seen:
                continue
            seen.add(segment)
            if not prefill.take(prefill.shared, segment, int(segments.computed[segment]), missing):
                return prefill, prefix_only
        done = int(running.computed[slot])
        missing = int(running.own_total[slot]) - done
        if missing == 0:
            prefix_only.append(slot)
            continue
        if scored[running.sequence[slot]]:
            missing = min(missing, scored_rows)
            scored_rows -= missing
            if missing == 0:
                continue  # The batch has all the logits it may have; later slots may need none.
        if not prefill.take(prefill.own, slot, done, missing):
            break
    return prefill, prefix_only
