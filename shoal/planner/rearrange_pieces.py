"""A list of requests cut into pieces that may be put in another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.planner.likeness import nearest_kept
from shoal.planner.tree import Arrangement, Tree
from shoal.planner.work_counts import WorkCounts
from shoal.types import BoolArray, Int64Array


@dataclass(frozen=True)
class Line:
    """The N requests of a tree in the order of an arrangement, each segment's neighbours.

    Attributes:
        request: int64 [N].
        offset: int64 [N + 1], where the sequences of each begin, and their number.
        first, last: int64 [S], the requests [first, last) of the line use a segment.
    """

    tree: Tree
    request: Int64Array
    offset: Int64Array
    first: Int64Array
    last: Int64Array

    @classmethod
    def of(cls, tree: Tree, arrangement: Arrangement) -> Line:
        """The line of an arrangement without copies."""
        request = np.argsort(arrangement.request_first, kind="stable")
        offset = np.append(0, np.cumsum(tree.choices[request]))
        first, last = np.empty((2, len(tree.parent)), dtype=np.int64)
        first[arrangement.source] = np.searchsorted(offset, arrangement.first)
        last[arrangement.source] = np.searchsorted(offset, arrangement.last)
        return cls(tree, request, offset, first, last)

    @property
    def everywhere(self) -> BoolArray:
        """Segments that all requests use, bool [S]: they stay whole in any order."""
        everywhere: BoolArray = self.last - self.first == len(self.request)
        return everywhere

    @property
    def cut_tokens(self) -> Int64Array:
        """Tokens that a cut before each request makes to be computed twice, int64 [N]."""
        change = np.zeros(len(self.request) + 1, dtype=np.int64)
        some = ~self.everywhere
        np.add.at(change, self.first[some] + 1, self.tree.length[some])
        np.subtract.at(change, self.last[some], self.tree.length[some])
        return np.cumsum(change)[:-1]

    def parts(self, starts: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Which segments have users in which pieces: (segment, piece), int64 [parts] each."""
        of_first = np.searchsorted(starts, self.first, side="right") - 1
        of_last = np.searchsorted(starts, self.last - 1, side="right") - 1
        count = of_last - of_first + 1
        segment = np.repeat(np.arange(len(count)), count)
        index = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
        return segment, of_first[segment] + index

    def work(self, starts: Int64Array, requests: WorkCounts, segments: WorkCounts) -> WorkCounts:
        """The work of each piece by itself; segments that all use are left out."""
        inside = np.zeros(len(self.request), dtype=np.int64)
        inside[starts] = 1
        segment, piece = self.parts(starts)
        some = ~self.everywhere[segment]
        counts = [requests.counts[:, self.request], segments.counts[:, segment[some]]]
        into = np.concatenate([np.cumsum(inside) - 1, piece[some]])
        return WorkCounts(np.concatenate(counts, axis=1)).summed(into, len(starts))

    def arranged(self, starts: Int64Array, order: Int64Array) -> Arrangement:
        """The arrangement of pieces in another order.

        A segment has a copy for each run of users; one that has a single user is its own.

        Args:
            starts: int64 [P], where pieces begin in the line, ascending from 0.
            order: int64 [P], the pieces as they are to follow each other.
        """
        tree, total = self.tree, int(self.offset[-1])
        begin, end = self.offset[starts], self.offset[np.append(starts[1:], len(self.request))]
        size = (end - begin)[order]
        shift = np.empty(len(order), dtype=np.int64)
        shift[order] = np.cumsum(size) - size - begin[order]

        segment, piece = self.parts(starts)
        first = np.maximum(self.offset[self.first[segment]], begin[piece]) + shift[piece]
        last = np.minimum(self.offset[self.last[segment]], end[piece]) + shift[piece]
        by_first = np.lexsort((first, segment))
        segment, first, last = segment[by_first], first[by_first], last[by_first]
        follows = (segment[1:] == segment[:-1]) & (first[1:] == last[:-1])
        heads = np.flatnonzero(np.append(True, ~follows)[: len(segment)])
        tails = np.append(heads[1:], len(segment))[: len(heads)] - 1
        source, first, last = segment[heads], first[heads], last[tails]

        of_piece = np.searchsorted(starts, np.arange(len(self.request)), side="right") - 1
        request_first = np.empty(len(self.request), dtype=np.int64)
        request_first[self.request] = self.offset[:-1] + shift[of_piece]

        def copy_of(wanted: Int64Array, sequence: Int64Array) -> Int64Array:
            """The copy of each wanted segment that covers a sequence; -1 where none is wanted."""
            at = (
                np.searchsorted(source * total + first, wanted * total + sequence, side="right") - 1
            )
            return np.where(wanted < 0, -1, at)

        shared = last - first >= 2
        nearest = nearest_kept(copy_of(tree.parent[source], first), shared)
        number = np.append(np.where(shared, np.cumsum(shared) - 1, -1), -1)
        parent = copy_of(tree.parent[source], first)[shared]
        return Arrangement.of_runs(
            tree,
            source=source[shared],
            parent=number[nearest[parent]],
            first=first[shared],
            last=last[shared],
            leaf=number[nearest[copy_of(tree.leaf, request_first)]],
            request_first=request_first,
        )


def piece_starts(
    cut_tokens: Int64Array, held: Int64Array, size: int, allowance: int, cuttable: BoolArray
) -> Int64Array:
    """Where to cut a line: wherever that costs nothing, and inside of what is too large.

    Inside, one cut for every `size` tokens held, where it costs least; `size` is doubled until
    the cuts together cost no more than is allowed.

    Args:
        cut_tokens: int64 [N], see `Line.cut_tokens`.
        held: int64 [N], KV tokens that each request of the line adds.
        allowance: tokens that may be computed twice.
        cuttable: bool [N], whether the request's group may be cut.
    """
    free = cut_tokens == 0
    before = np.cumsum(held) - held
    head = np.flatnonzero(free)[np.cumsum(free) - 1]
    inside = before - before[head]
    while size < inside.max(initial=0):
        stretch = np.where(cuttable, inside // size, 0)
        bounds = np.flatnonzero(free | (np.diff(stretch, prepend=0) != 0))
        cheapest = np.minimum.reduceat(cut_tokens, bounds)
        of = np.cumsum(np.bincount(bounds, minlength=len(free))) - 1
        candidates = np.flatnonzero(cut_tokens == cheapest[of])
        starts: Int64Array = candidates[np.diff(of[candidates], prepend=-1) != 0]
        if int(cut_tokens[starts].sum()) <= allowance:
            return starts
        size *= 2
    return np.flatnonzero(free)
