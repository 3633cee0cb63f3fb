"""The choice of segments: which nodes of the forest are computed once and used by many.

- `forest`: any nodes, nested; those that are not worth a segment are folded into what is below.
- `single`: at most one segment per sequence, beginning at the first token; the exact optimum.
- `paper`: the same by the rule of BatchLLM (MLSys 2026); a baseline, not always optimal.
- `none`: no segments.

`forest` and `single` are exact, by one recursion over (node, depth of the nearest chosen node
above): docs/planner.md#what-to-share.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from shoal.config import Sharing
from shoal.planner.folding import FoldCost, NodeWeights, fold_weights, token_weights
from shoal.planner.forest import Forest
from shoal.types import BoolArray, Int32Array, Int64Array


@dataclass(frozen=True)
class Segments:
    """The S chosen nodes in preorder, and who uses them.

    Attributes:
        node: int64 [S], the forest's node whose path the segment completes.
        parent: int64 [S], the segment before it, -1: none.
        level: int64 [S], segments before it.
        start, end: int64 [S], its tokens are the path's [start, end).
        users: int64 [S], sequences that use it, at least 2.
        request_segment: int64 [N], last segment of each request's sequences, -1: none.
    """

    node: Int64Array
    parent: Int64Array
    level: Int64Array
    start: Int64Array
    end: Int64Array
    users: Int64Array
    request_segment: Int64Array

    @property
    def saved_tokens(self) -> int:
        """Prompt tokens that need not be computed."""
        return int(((self.end - self.start) * (self.users - 1)).sum())


@dataclass(frozen=True)
class Savings:
    """Prompt tokens saved by each mode; `forest_max` is `forest` with nothing folded."""

    none: int
    paper: int
    single: int
    forest: int
    forest_max: int


def choose_segments(
    forest: Forest,
    sharing: Sharing,
    fold_cost: FoldCost | None = None,
    output_tokens: Int32Array | None = None,
) -> Segments:
    """The segments that `sharing` asks for.

    Args:
        fold_cost: what a segment costs; matters for `forest` alone. None: nothing.
        output_tokens: int32 [N], expected of each choice; None: nothing is generated.
    """
    match sharing:
        case Sharing.none:
            return _flat(forest, np.full(len(forest), -1, dtype=np.int64))
        case Sharing.paper:
            return _flat(forest, _paper_rule(forest))
        case Sharing.single:
            chosen = _best_nodes(forest, token_weights(forest), nested=False)
            return _flat(forest, _nearest(forest, chosen))
        case Sharing.forest:
            weights = fold_weights(forest, fold_cost or FoldCost(), output_tokens)
            return _nested(forest, _best_nodes(forest, weights, nested=True))


def savings(
    forest: Forest,
    fold_cost: FoldCost | None = None,
    output_tokens: Int32Array | None = None,
    never_computed: int = 0,
) -> Savings:
    """What each mode would save on this forest; see `choose_segments`.

    Args:
        never_computed: prompt tokens that no mode computes: they are in none of the forest's paths.
    """
    saved = {
        s: choose_segments(forest, s, fold_cost, output_tokens).saved_tokens + never_computed
        for s in Sharing
    }
    everything = int(((forest.end - forest.start) * (forest.users - 1)).sum()) + never_computed
    return Savings(
        none=saved[Sharing.none],
        paper=saved[Sharing.paper],
        single=saved[Sharing.single],
        forest=saved[Sharing.forest],
        forest_max=everything,
    )


def _best_nodes(forest: Forest, weights: NodeWeights, *, nested: bool) -> BoolArray:
    """The choice of nodes that saves most, bool [V].

    Let a be the end of the nearest chosen node above v (0: none) and c the children. A token of a
    chosen v weighs kept_v, one that v's direct sequences keep for themselves direct_v in all, and
    choosing v costs overhead_v. Against a run without segments, v's subtree saves at best

        f(v, a) = max( direct_v·a + Σ_c f(c, a)                                      not chosen
                       direct_v·end_v + Σ_c f(c, end_v) - kept_v·(end_v - a) - overhead_v )

    where a segment that is not `nested` begins at the first token: then kept_v·end_v is due.

    Solved a level at a time from below; at level k the states are k + 1 columns: no node above,
    then the k ancestors. Not choosing gains more with a than choosing does, if keeping a token
    once never weighs more than giving a copy to each part below,

        kept_v <= direct_v + Σ_c kept_c,

    which holds for `fold_weights`: kept is 1 + max(r·T, p·O), where O is a sum over the users and
    T a maximum, so no more than the sum of the parts; and there are two parts or more. By
    induction f(c, ·) grows at least by kept_c. So v is chosen in its first columns only, and their
    number is all there is to remember. In a tie v is not chosen: a segment that saves nothing
    would only cost.
    """
    levels = forest.by_level()
    ancestor_ends = _ancestor_ends(forest, levels)
    taken = (weights.direct - weights.kept) * forest.end - weights.overhead
    inherited = weights.kept if nested else 0 * weights.kept
    chosen_columns = np.zeros(len(forest), dtype=np.int64)
    below = np.zeros((0, len(levels) + 1))
    for k in reversed(range(len(levels))):
        nodes = levels[k]
        depths = ancestor_ends.pop()
        leave = weights.direct[nodes, None] * depths
        take = taken[nodes]
        if len(below):
            above = forest.parent[levels[k + 1]]
            heads = np.flatnonzero(np.diff(above, prepend=-1))
            rows = np.searchsorted(nodes, above[heads])
            children = np.add.reduceat(below, heads, axis=0)
            leave[rows] += children[:, :-1]
            take[rows] += children[:, -1]
        value = take[:, None] + inherited[nodes, None] * depths
        chosen_columns[nodes] = np.count_nonzero(value > leave, axis=1)
        below = np.maximum(value, leave)
    return _follow(forest, levels, chosen_columns)


def _ancestor_ends(forest: Forest, levels: list[Int64Array]) -> list[Int32Array]:
    """For each level k, the ends of its nodes' ancestors, int32 [nodes, k + 1].

    Column 0 is 0, for "no node"; then the ancestors, top first. In all no more entries than
    the sequences' prompts have tokens: a level is a token or more, and each node can be given a
    sequence of its own that passes through it.
    """
    ends = [np.zeros((len(nodes), 1), dtype=np.int32) for nodes in levels[:1]]
    for above, nodes in pairwise(levels):
        parent = forest.parent[nodes]
        inherited = ends[-1][np.searchsorted(above, parent)]
        last = forest.end[parent, None].astype(np.int32)
        ends.append(np.concatenate([inherited, last], axis=1))
    return ends


def _follow(forest: Forest, levels: list[Int64Array], chosen_columns: Int64Array) -> BoolArray:
    """Read the best choice off from the top."""
    chosen = np.zeros(len(forest), dtype=np.bool_)
    column = np.zeros(len(forest), dtype=np.int64)
    for k, nodes in enumerate(levels):
        if k:
            parent = forest.parent[nodes]
            column[nodes] = np.where(chosen[parent], k, column[parent])
        chosen[nodes] = column[nodes] < chosen_columns[nodes]
    return chosen


def _nearest(forest: Forest, chosen: BoolArray) -> Int64Array:
    """The deepest chosen node on the path to each node, itself included; -1: none. int64 [V]."""
    nearest = np.where(chosen, np.arange(len(forest)), -1)
    for nodes in forest.by_level()[1:]:
        inherited = nearest[forest.parent[nodes]]
        nearest[nodes] = np.where(chosen[nodes], nodes, inherited)
    return nearest


def _paper_rule(forest: Forest) -> Int64Array:
    """The node used by the sequences of each node under the paper's rule, -1: none. int64 [V].

    Bottom-up, a grandchild g of v takes a copy of its parent c's tokens and becomes a child of v
    when (users_g - 1)·tokens_g > tokens_c; c loses its users. What hangs from the root in the end
    is shared. Unlike the optimum it may leave a sequence with less than the deepest chosen node
    on its path.
    """
    levels = forest.by_level()
    parent, users = forest.parent.copy(), forest.users.copy()
    tokens = forest.end - forest.start
    moved = np.zeros(0, dtype=np.int64)
    for level in reversed(levels[1:]):
        grandchild = np.concatenate([level, moved])
        child = parent[grandchild]
        gains = (users[grandchild] - 1) * tokens[grandchild] > tokens[child]
        moved, child = grandchild[gains], child[gains]
        tokens[moved] += tokens[child]
        parent[moved] = parent[child]
        np.subtract.at(users, child, users[moved])

    used = np.arange(len(forest))
    for level in levels:
        used[level] = np.where(parent[level] < 0, level, used[parent[level]])
    return np.where(users[used] < 2, -1, used)


def _flat(forest: Forest, used: Int64Array) -> Segments:
    """Segments that each begin at the first token; `used` names the node for each node's own."""
    node = np.flatnonzero(used == np.arange(len(forest)))
    direct = np.zeros(len(forest) + 1, dtype=np.int64)
    np.add.at(direct, used, forest.direct)
    none = np.zeros(len(node), dtype=np.int64)
    return Segments(
        node=node,
        parent=none - 1,
        level=none,
        start=none,
        end=forest.end[node],
        users=direct[node],
        request_segment=_request_segment(forest, node, used),
    )


def _nested(forest: Forest, chosen: BoolArray) -> Segments:
    """Segments that each continue the nearest one above."""
    node = np.flatnonzero(chosen)
    nearest = np.append(_nearest(forest, chosen), -1)
    number = _numbers(forest, node)
    parent = number[nearest[forest.parent[node]]]
    level = np.zeros(len(forest), dtype=np.int64)
    for nodes in forest.by_level()[1:]:
        above = forest.parent[nodes]
        level[nodes] = level[above] + chosen[above]
    return Segments(
        node=node,
        parent=parent,
        level=level[node],
        start=np.append(forest.end[node], 0)[parent],
        end=forest.end[node],
        users=forest.users[node],
        request_segment=_request_segment(forest, node, nearest[:-1]),
    )


def _numbers(forest: Forest, node: Int64Array) -> Int64Array:
    """Each node's number among the chosen ones; the last entry, for "no node", is -1."""
    number = np.full(len(forest) + 1, -1, dtype=np.int64)
    number[node] = np.arange(len(node))
    return number


def _request_segment(forest: Forest, node: Int64Array, used: Int64Array) -> Int64Array:
    number: Int64Array = _numbers(forest, node)[np.append(used, -1)[forest.request_node]]
    return number
