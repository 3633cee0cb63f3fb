"""Segments and requests as one tree: what there is to put in order, and the order found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.planner.forest import Forest, split_by_level
from shoal.planner.plan import Plan
from shoal.planner.sharing import Segments
from shoal.types import Int64Array, RequestTable


@dataclass(frozen=True)
class Tree:
    """S segments, and N requests that continue them.

    A segment's children are the segments that continue it and the requests that use nothing
    deeper. Columns of children of both kinds, [S + N], hold the segments first.

    Attributes:
        parent, level: int64 [S]; -1 and 0 at the top.
        start, end: int64 [S], tokens before it and up to its end.
        users: int64 [S], sequences.
        leaf: int64 [N], each request's last segment, -1: none.
        prompt: int64 [N], prompt tokens to compute.
        choices, output: int64 [N], sequences, and expected output tokens of each.
        index: int64 [N], indices in the input.
        whole: int64 [N], prompt tokens, with a last one that is only scored.
        scored: int64 [N], position of the first prompt token that is scored; `whole`: none is.
        samples: int64 [N], 1 where the answer's first token is sampled, 0 where there is none.
        tie: int64 [S + N], decides between children that are equal otherwise.
        adapter: int64 [N], whose requests are neighbours (`RequestTable.adapter`); None: all are of
            one model.
    """

    parent: Int64Array
    level: Int64Array
    start: Int64Array
    end: Int64Array
    users: Int64Array
    leaf: Int64Array
    prompt: Int64Array
    choices: Int64Array
    output: Int64Array
    index: Int64Array
    whole: Int64Array
    scored: Int64Array
    samples: Int64Array
    tie: Int64Array
    adapter: Int64Array | None = None

    @classmethod
    def of_segments(cls, table: RequestTable, forest: Forest, segments: Segments) -> Tree:
        """The tree of chosen segments; ties are decided lexicographically."""
        return cls(
            parent=segments.parent,
            level=segments.level,
            start=segments.start,
            end=segments.end,
            users=segments.users,
            leaf=segments.request_segment,
            prompt=table.computed_lengths,
            choices=forest.choices,
            output=table.expected_new_tokens.astype(np.int64),
            index=np.arange(len(table)),
            whole=table.lengths,
            scored=table.score_start,
            samples=table.generates.astype(np.int64),
            tie=np.concatenate([forest.first[segments.node], forest.rank]),
            adapter=None if table.adapter is None else table.adapter.astype(np.int64),
        )

    @classmethod
    def of_plan(cls, table: RequestTable, plan: Plan) -> Tree:
        """The tree of a plan, its requests in the plan's order; so are ties."""
        heads = np.flatnonzero(plan.sequence_choice == 0)
        request = plan.sequence_request[heads].astype(np.int64)
        parent = plan.segment_parent.astype(np.int64)
        return cls(
            parent=parent,
            level=_levels(parent),
            start=plan.segment_start.astype(np.int64),
            end=plan.segment_end.astype(np.int64),
            users=plan.segment_users.astype(np.int64),
            leaf=plan.sequence_segment[heads].astype(np.int64),
            prompt=table.computed_lengths[request],
            choices=np.diff(np.append(heads, plan.num_sequences)),
            output=table.expected_new_tokens[request].astype(np.int64),
            index=request,
            whole=table.lengths[request],
            scored=table.score_start[request],
            samples=table.generates[request].astype(np.int64),
            tie=np.concatenate([plan.segment_first.astype(np.int64), heads]),
            adapter=None if table.adapter is None else table.adapter[request].astype(np.int64),
        )

    @property
    def length(self) -> Int64Array:
        """Tokens of each segment, int64 [S]."""
        return self.end - self.start

    @property
    def shared(self) -> Int64Array:
        """Prompt tokens of each request that its segments hold, int64 [N]."""
        shared: Int64Array = np.append(self.end, 0)[self.leaf]
        return shared

    @property
    def own(self) -> Int64Array:
        """Prompt tokens that each choice of a request has for itself, int64 [N]."""
        return self.prompt - self.shared

    @property
    def above(self) -> Int64Array:
        """Whose child each is, int64 [S + N], -1: the top's."""
        return np.concatenate([self.parent, self.leaf])

    def sums(self, of_segment: Int64Array, of_request: Int64Array) -> Int64Array:
        """Of each segment, its own value plus those of all below it, int64 [S]."""
        total = np.append(of_segment, 0)
        np.add.at(total, self.leaf, of_request)
        for level in reversed(split_by_level(self.level)[1:]):
            np.add.at(total, self.parent[level], total[level])
        return total[:-1]

    def highest(self, of_request: Int64Array) -> Int64Array:
        """The highest value of the requests below each segment, int64 [S]."""
        highest = np.full(len(self.parent) + 1, np.iinfo(np.int64).min)
        np.maximum.at(highest, self.leaf, of_request)
        for level in reversed(split_by_level(self.level)[1:]):
            np.maximum.at(highest, self.parent[level], highest[level])
        return highest[:-1]


@dataclass(frozen=True)
class Arrangement:
    """Places in the order of all sequences; a request's choices are neighbours.

    A segment whose users are no longer neighbours has a copy for each run of them, so there are
    C >= S copies, in preorder of the order to run.

    Attributes:
        source: int64 [C], the segment that each is a copy of.
        parent: int64 [C], the copy it continues, -1: none.
        first, last: int64 [C], its users are the sequences [first, last).
        leaf: int64 [N], the copy that each request continues, -1: none.
        request_first: int64 [N], number of the sequence of a request's first choice.
    """

    source: Int64Array
    parent: Int64Array
    first: Int64Array
    last: Int64Array
    leaf: Int64Array
    request_first: Int64Array

    @classmethod
    def of_runs(
        cls,
        tree: Tree,
        source: Int64Array,
        parent: Int64Array,
        first: Int64Array,
        last: Int64Array,
        leaf: Int64Array,
        request_first: Int64Array,
    ) -> Arrangement:
        """Number the copies in preorder; `parent` and `leaf` name them by their index here."""
        in_order = np.lexsort((tree.level[source], first))
        number = np.full(len(in_order) + 1, -1, dtype=np.int64)
        number[in_order] = np.arange(len(in_order))
        return cls(
            source=source[in_order],
            parent=number[parent[in_order]],
            first=first[in_order],
            last=last[in_order],
            leaf=number[leaf],
            request_first=request_first,
        )


def depth_first(tree: Tree, key: npt.NDArray[np.float64] | Int64Array) -> Arrangement:
    """Sort the children of each segment, and of the top, in ascending order of `key` [S + N]."""
    num_segments, above = len(tree.parent), tree.above
    size = np.concatenate([tree.users, tree.choices])
    in_order = np.lexsort((tree.tie, key, above))
    before = np.empty(len(above), dtype=np.int64)  # sequences of earlier siblings
    before[in_order] = _within_runs(size[in_order], above[in_order])
    first = np.append(before[:num_segments], 0)
    for level in split_by_level(tree.level)[1:]:
        first[level] += first[tree.parent[level]]
    return Arrangement.of_runs(
        tree,
        source=np.arange(num_segments),
        parent=tree.parent,
        first=first[:-1],
        last=first[:-1] + tree.users,
        leaf=tree.leaf,
        request_first=first[tree.leaf] + before[num_segments:],
    )


def _within_runs(size: Int64Array, parent: Int64Array) -> Int64Array:
    """Sum of the sizes before each entry, starting anew with each parent."""
    total = np.cumsum(size) - size
    head = np.diff(parent, prepend=-2) != 0
    before: Int64Array = total - total[head][np.cumsum(head) - 1]
    return before


def _levels(parent: Int64Array) -> Int64Array:
    """Segments above each; parents stand before their children."""
    level = np.zeros(len(parent), dtype=np.int64)
    inner = np.flatnonzero(parent >= 0)
    above = parent[inner]
    while len(inner):
        level[inner] += 1
        above = parent[above]
        inner, above = inner[above >= 0], above[above >= 0]
    return level
