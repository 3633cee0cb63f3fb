"""Which tokens a batch computes: decodes, then prefill chunks up to the token budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shoal.scheduler.batch import Chunks
from shoal.scheduler.ledger import ChunkRoom
from shoal.scheduler.scoring import ScoredRows
from shoal.scheduler.state import RunState
from shoal.types import Int64Array

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
    """Takes chunks while tokens are left.

    Attributes:
        prefix_only: slots that sample without a token of their own to compute.
        complete: slots that generate nothing, and have nothing left to compute.
    """

    def __init__(self, tokens: int, scored_rows: int, room: ChunkRoom) -> None:
        self.left, self._scored_left, self._room = tokens, scored_rows, room
        self.shared, self.own = _Columns(), _Columns()
        self.prefix_only, self.complete = list[int](), list[int]()

    def scorable(self, rows: ScoredRows, owner: int, first: int, missing: int) -> int:
        """How many of the missing tokens may be scheduled, for the logits that they take."""
        begin, end = rows.part(owner, first, missing)
        taken = min(end - begin, self._scored_left)
        self._scored_left -= taken
        return missing if begin + taken == end else begin + taken - first

    def take(self, columns: _Columns, owner: int, first: int, missing: int) -> bool:
        """Schedule what fits of the missing tokens; whether that was all."""
        shared = columns is self.shared
        count = self._room.fitting(owner, first, min(missing, self.left), shared=shared)
        # Kernels take rows in tiles: a cut elsewhere would leave one more of them partly empty.
        if _TILE <= count < missing:
            count -= count % _TILE
        if count > 0:
            columns.add(owner, first, count)
            self._room.take(owner, first + count, shared=shared)
            self.left -= count
        return count == missing


class ChosenChunks(NamedTuple):
    """The chunks of a batch in row order, and slots that its rows alone do not tell.

    Attributes:
        prefix_only: they have nothing to compute, but are to sample: their prompt is all shared,
            and will be computed after this batch.
        complete: they generate nothing, and need nothing after this batch.
    """

    chunks: Chunks
    prefix_only: list[int]
    complete: list[int]


def choose_chunks(
    state: RunState, decoding: Int64Array, prefilling: Int64Array, budget: int, scored_rows: int
) -> ChosenChunks:
    """A token of each decoding slot, then of the prefilling ones in their order what fits.

    Args:
        scored_rows: most rows that score prompts.
    """
    prefill = _prefill(state, prefilling, budget - len(decoding), scored_rows)
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
    order = _row_order(segments, slots, state)
    is_shared = order < num_segments
    chunks = Chunks(
        shared=is_shared,
        segments=segments[order[is_shared]],
        slots=slots[order[~is_shared] - num_segments],
        first=first[order],
        count=count[order],
    )
    return ChosenChunks(chunks, prefill.prefix_only, prefill.complete)


def _row_order(segments: Int64Array, slots: Int64Array, state: RunState) -> Int64Array:
    """The order of the chunks of segments, then slots, that makes users of a segment neighbours.

    By sequence, since in the plan whoever stands between two users of a segment uses it too. A
    segment's own tokens stand with its first user, the outer segment first: anywhere else they
    would part the rows of its users, which include those of the segments inside it.
    """
    table, own = state.segments, state.columns.row_order(state.running.sequence[slots])
    sequence = np.concatenate([table.first_user[segments], own])
    start = np.concatenate([table.start[segments], np.full(len(slots), _BEHIND_ALL)])
    return np.lexsort((start, sequence))


def _prefill(state: RunState, slots: Int64Array, tokens: int, scored_rows: int) -> _Prefill:
    """Chunks for prefilling slots within so many tokens, of which so many may score.

    A segment is scheduled with the first of its users. It need not be complete before theirs are:
    in each layer, all keys and values of a batch are written before anything attends to them. So
    what matters is that a slot gets nothing while a segment above it is cut short.
    """
    running, segments, scoring = state.running, state.segments, state.scoring
    generates = state.columns.generates
    prefill = _Prefill(tokens, scored_rows, ChunkRoom(state.ledgers))
    seen: set[int] = set()
    for slot in slots.tolist():
        for segment in segments.path(int(running.segment[slot])):
            missing = segments.missing_tokens(segment)
            if missing == 0 or segment in seen:
                continue
            seen.add(segment)
            done = int(segments.computed[segment])
            most = missing
            if scoring.any:
                most = prefill.scorable(scoring.segments, segment, done, missing)
            if not prefill.take(prefill.shared, segment, done, most) or most < missing:
                return prefill
        sequence, done = int(running.sequence[slot]), int(running.computed[slot])
        missing = most = int(running.own_total[slot]) - done
        if missing and scoring.any:
            most = prefill.scorable(scoring.sequences, sequence, done, missing)
        if missing and not prefill.take(prefill.own, slot, done, most):
            break
        if most < missing:
            continue  # The batch has all the logits it may have; later slots may need none.
        if not generates[sequence]:
            prefill.complete.append(slot)
        elif missing == 0:
            prefill.prefix_only.append(slot)
    return prefill
