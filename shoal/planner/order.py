"""The order in which sequences run: depth first, so that a segment lives for one stretch.

- `ratio`: at every branch the subtree with the most output expected per prompt token to compute
  goes first. Decodes then start early and mix with the prefill of what follows (BatchLLM, with
  the number of requests in the numerator; ALGORITHMS.md, section 3).
- `input`: at every branch the subtree that appears first in the input goes first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.config import Order
from shoal.planner.forest import Forest, split_by_level
from shoal.planner.sharing import Segments
from shoal.types import Int64Array, RequestTable


@dataclass(frozen=True)
class Arrangement:
    """Places in the order of all sequences; a request's choices are neighbours.

    Attributes:
        segment_first: int64 [S], place of a segment's first user; the others follow it.
        request_first: int64 [N], place of a request's first choice.
    """

    segment_first: Int64Array
    request_first: Int64Array


def arrange(table: RequestTable, forest: Forest, segments: Segments, order: Order) -> Arrangement:
    """Put the sequences in order.

    The children of a segment, or of the top, are its segments and the requests that use nothing
    deeper. They are sorted among themselves, ties by lexicographic order.
    """
    levels = split_by_level(segments.level)
    key = _ratio_key if order is Order.ratio else _input_key
    num_segments = len(segments.node)
    parent = np.concatenate([segments.parent, segments.request_segment])
    size = np.concatenate([segments.users, forest.choices])
    tie = np.concatenate([forest.first[segments.node], forest.rank])
    by_place = np.lexsort((tie, key(table, forest, segments, levels), parent))

    before = np.empty(len(parent), dtype=np.int64)  # sequences of earlier siblings
    before[by_place] = _within_runs(size[by_place], parent[by_place])
    first = np.append(before[:num_segments], 0)
    for level in levels[1:]:
        first[level] += first[segments.parent[level]]
    return Arrangement(
        segment_first=first[:-1],
        request_first=first[segments.request_segment] + before[num_segments:],
    )


def _within_runs(size: Int64Array, parent: Int64Array) -> Int64Array:
    """Sum of the sizes before each entry, starting anew with each parent."""
    total = np.cumsum(size) - size
    head = np.diff(parent, prepend=-2) != 0
    before: Int64Array = total - total[head][np.cumsum(head) - 1]
    return before


def _ratio_key(
    table: RequestTable, forest: Forest, segments: Segments, levels: list[Int64Array]
) -> npt.NDArray[np.float64]:
    """Minus (expected output / prompt tokens to compute), per segment's subtree and per request.

    A sequence with nothing of its own to compute comes first: it can decode at once.
    """
    shared = np.append(segments.end, 0)[segments.request_segment]
    prefill = (table.lengths - shared) * forest.choices
    output = table.expected_new_tokens * forest.choices
    all_output = _subtree_sums(0 * segments.end, output, segments, levels)
    all_prefill = _subtree_sums(segments.end - segments.start, prefill, segments, levels)
    with np.errstate(divide="ignore"):
        return np.concatenate([-all_output / all_prefill, -output / prefill])


def _subtree_sums(
    own: Int64Array, of_request: Int64Array, segments: Segments, levels: list[Int64Array]
) -> Int64Array:
    """Per segment, its own value plus those of all segments and requests below it."""
    total = np.append(own, 0)
    np.add.at(total, segments.request_segment, of_request)
    for level in reversed(levels[1:]):
        np.add.at(total, segments.parent[level], total[level])
    return total[:-1]


def _input_key(
    table: RequestTable, forest: Forest, segments: Segments, levels: list[Int64Array]
) -> Int64Array:
    """Lowest request index, per segment's subtree and per request."""
    request = np.arange(len(table))
    lowest = np.full(len(segments.node) + 1, len(table))
    np.minimum.at(lowest, segments.request_segment, request)
    for level in reversed(levels[1:]):
        np.minimum.at(lowest, segments.parent[level], lowest[level])
    return np.concatenate([lowest[:-1], request])
