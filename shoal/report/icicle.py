"""The geometry of a plan's picture: rectangles over sequences (x) and prompt tokens (y)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from shoal.planner import Plan
from shoal.types import BoolArray, Int32Array, Int64Array

Float64Array = npt.NDArray[np.float64]


class Boxes(NamedTuple):
    """Rectangles, float64 [n] each: sequences [left, right) and prompt tokens [top, bottom)."""

    left: Float64Array
    right: Float64Array
    top: Float64Array
    bottom: Float64Array

    def where(self, chosen: BoolArray) -> Boxes:
        """Some of them."""
        return Boxes(*(edge[chosen] for edge in self))


@dataclass(frozen=True)
class Icicle:
    """A plan as rectangles that do not overlap; an area is tokens times sequences.

    Attributes:
        segments: shared segments, one rectangle each.
        merged: segments too narrow to be seen, merged with their neighbours to their mean height.
        tails: what prompts add of their own, to the mean of the sequences in one column.
        segment_ids: int64, the plan's segments that `segments` shows.
        segment_saved, merged_saved: prompt tokens that each rectangle saves, float64.
    """

    segments: Boxes
    merged: Boxes
    tails: Boxes
    segment_ids: Int64Array
    segment_saved: Float64Array
    merged_saved: Float64Array


def make_icicle(
    plan: Plan, prompt_lengths: Int64Array, *, columns: int, max_segments: int
) -> Icicle:
    """Lay out a plan for a picture of `columns` pixels.

    Shown are the segments of at least a column's sequences, and of those at most the
    `max_segments` with the most users; since users never increase downwards, what is above a
    shown segment is shown too. The other segments and the tails are merged, column by column
    between the edges of what is shown, such that no area is lost.

    Args:
        prompt_lengths: tokens of each request's prompt, [N].
    """
    step = max(1, -(-plan.num_sequences // columns))
    shown = _shown(plan.segment_users, step, max_segments)
    owner = _deepest(plan, shown)
    begins = np.flatnonzero(
        (np.diff(owner, prepend=-2) != 0) | (np.arange(plan.num_sequences) % step == 0)
    )
    left, right = begins.astype(float), np.append(begins[1:], plan.num_sequences).astype(float)

    def mean(depth: Int32Array | Int64Array) -> Float64Array:
        average: Float64Array = np.add.reduceat(depth.astype(float), begins) / (right - left)
        return average

    top = mean(np.append(plan.segment_end, np.int32(0))[owner])
    middle, bottom = mean(plan.shared_length), mean(prompt_lengths[plan.sequence_request])
    saved = plan.segment_length.astype(np.float64) * (plan.segment_users - 1.0)
    merged_saved = np.add.reduceat(_spread(plan, saved, ~shown), begins)
    merged, tailed = middle > top, bottom > middle
    return Icicle(
        segments=Boxes(
            plan.segment_first[shown].astype(float),
            plan.segment_last[shown].astype(float),
            plan.segment_start[shown].astype(float),
            plan.segment_end[shown].astype(float),
        ),
        merged=Boxes(left, right, top, middle).where(merged),
        tails=Boxes(left, right, middle, bottom).where(tailed),
        segment_ids=np.flatnonzero(shown),
        segment_saved=saved[shown],
        merged_saved=merged_saved[merged],
    )


def _shown(users: Int32Array, step: int, max_segments: int) -> BoolArray:
    """Segments wide enough to be seen, bool [S]: a cut by users alone."""
    least = step
    if len(users) > max_segments:
        least = max(least, int(np.sort(users)[-max_segments - 1]) + 1)
    shown: BoolArray = users >= least
    return shown


def _deepest(plan: Plan, shown: BoolArray) -> Int64Array:
    """The deepest shown segment of each sequence, int64 [Q]; -1: none."""
    owner = np.full(plan.num_sequences, -1, dtype=np.int64)
    for segment in np.flatnonzero(shown):  # parents come first
        owner[plan.segment_first[segment] : plan.segment_last[segment]] = segment
    return owner


def _spread(plan: Plan, saved: Float64Array, chosen: BoolArray) -> Float64Array:
    """What some segments save, in equal parts on the sequences that use them, [Q]."""
    part, size = (saved / plan.segment_users)[chosen], plan.num_sequences + 1
    begins = np.bincount(plan.segment_first[chosen], part, size)
    ends = np.bincount(plan.segment_last[chosen], part, size)
    spread: Float64Array = np.cumsum(begins - ends)[:-1]
    return spread
