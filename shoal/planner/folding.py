"""What a shared segment costs beyond its tokens, and what a token costs beyond its prefill.

A segment is computed once for all its users, but it is one more entry in the work list of every
iteration it lives in, and one more partial attention result for each of its users' rows. Folding
it, which gives its tokens to what is below, saves that and costs prefill, and KV to read.
Everything is counted in tokens of prefill, the unit of what sharing saves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Costs
from shoal.planner.forest import Forest
from shoal.planner.seen_pairs import DecodingRows, SeenWhileDecoding, seen_while_decoding
from shoal.types import Int32Array, Int64Array
from shoal.work import Window

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WindowedCost:
    """As `per_read` and `per_pair` of a `FoldCost`, of layers with a window, for what it shows."""

    window: Window
    per_read: float
    per_pair: float


@dataclass(frozen=True)
class FoldCost:
    """Constants of the choice between sharing and folding, in tokens of prefill, at least 0.

    With none stated, segments are free, and nothing is folded.

    Attributes:
        per_segment: once per segment.
        per_use: once per sequence that uses it.
        per_iteration: per iteration in which it lives.
        per_step: per user and output token: one more partial attention result to merge.
        per_read: reading the KV of one token once, in layers that see everything.
        per_pair: attention of one query row to one token of KV, in the same layers.
        windowed: the other layers.
    """

    per_segment: float = 0.0
    per_use: float = 0.0
    per_iteration: float = 0.0
    per_step: float = 0.0
    per_read: float = 0.0
    per_pair: float = 0.0
    windowed: tuple[WindowedCost, ...] = ()

    @classmethod
    def of(cls, costs: Costs) -> FoldCost:
        """The constants of a model on a machine: seconds, by those that a token of prefill takes.

        A segment leaves half a KV block empty on average. What that costs in every iteration, keys
        multiplied for nothing, is part of `costs.use_seconds`. The memory has no price: keeping an
        edge of e tokens above c parts takes half a block and saves e·(c - 1) tokens of KV, and
        pricing only the first folds what pays (docs/lab-notes.md). Latents count as read as they
        lie, which is what a few decoding rows do.
        """
        token = costs.flops_per_token / costs.flops_per_second
        read = 1 / costs.bytes_per_second / token
        pair = 1 / costs.flops_per_second / token
        whole = [kind for kind in costs.attention if kind.window is None]
        return cls(
            per_iteration=costs.segment_seconds / token,
            per_step=costs.use_seconds / token,
            per_read=sum(kind.kv_bytes for kind in whole) * read,
            per_pair=sum(kind.pair_flops for kind in whole) * pair,
            windowed=tuple(
                WindowedCost(kind.window, kind.kv_bytes * read, kind.pair_flops * pair)
                for kind in costs.attention
                if kind.window is not None
            ),
        )


@dataclass(frozen=True)
class NodeWeights:
    """What the choice of nodes is weighed with, all float64 [V], in tokens of prefill.

    Attributes:
        kept: a token of the node, when the node is a segment.
        direct: a token that each sequence of the node without a deeper one holds for itself, summed
            over these sequences.
        overhead: keeping the node, whatever its length.
    """

    kept: FloatArray
    direct: FloatArray
    overhead: FloatArray


def token_weights(forest: Forest) -> NodeWeights:
    """Weights with which only prompt tokens count."""
    ones = np.ones(len(forest))
    return NodeWeights(kept=ones, direct=forest.direct.astype(np.float64), overhead=0 * ones)


def fold_weights(
    forest: Forest, cost: FoldCost, output_tokens: Int32Array | None = None
) -> NodeWeights:
    """Weights of a forest's nodes when its requests generate `output_tokens`.

    The model: the users of a segment decode together, so it lives for as many iterations as the
    longest of their outputs has tokens, T, and serves as many rows as they have tokens together,
    O. It costs

        per_segment + per_use·users + per_iteration·T + per_step·O.

    Each of its tokens is computed once (1), then read in every iteration, or multiplied with
    every row, whichever takes longer (roofline): 1 + max(per_read·T, per_pair·O). A token of a
    sequence's own with o tokens of output costs 1 + max(per_read, per_pair)·o. More users than
    fit into memory at once, and prefill, make a segment live longer; they also make what it
    costs per iteration matter less, so both are left out.

    Layers with a window add their own reading and multiplying, of the tokens that it shows: T and O
    are then of the pairs of an output token and one of the node's that it sees, by the node's
    tokens. What is nearer to the output is seen no less, so a token kept still weighs no more than
    its copies below, which the choice rests on (`sharing._best_nodes`).

    Args:
        output_tokens: int32 [N], expected of each choice of each request; None: nothing is
            generated.
    """
    if output_tokens is None:
        output_tokens = np.zeros(len(forest.choices), dtype=np.int32)
    direct_rows, rows, longest = _outputs(forest, output_tokens)
    own = max(cost.per_read, cost.per_pair)
    kept = 1 + np.maximum(cost.per_read * longest, cost.per_pair * rows)
    direct = forest.direct + own * direct_rows
    for kind in cost.windowed:
        seen = _seen(forest, output_tokens, kind.window)
        size = forest.end - forest.start
        kept += np.maximum(kind.per_read * seen.most, kind.per_pair * seen.total) / size
        direct += max(kind.per_read, kind.per_pair) * seen.direct / size
    return NodeWeights(
        kept=kept,
        direct=direct,
        overhead=cost.per_segment
        + cost.per_use * forest.users
        + cost.per_iteration * longest
        + cost.per_step * rows,
    )


def _seen(forest: Forest, output_tokens: Int32Array, window: Window) -> SeenWhileDecoding:
    """What a window shows to output tokens, of each node's."""
    first = forest.length
    nodes = forest.parent, forest.start, forest.end
    rows = DecodingRows(forest.request_node, first, first + output_tokens, forest.choices)
    return seen_while_decoding(window, nodes, rows)


def _outputs(
    forest: Forest, output_tokens: Int32Array
) -> tuple[FloatArray, Int64Array, Int64Array]:
    """Output tokens of each node's sequences.

    Returns:
        direct [V]: summed over those without a deeper node.
        rows [V]: summed over all users.
        longest [V]: the most that one of them has.
    """
    inside = np.flatnonzero(forest.request_node >= 0)
    node, tokens = forest.request_node[inside], output_tokens[inside].astype(np.int64)
    total = tokens * forest.choices[inside]
    # Sums of integers below 2^53: exact, so the same in any order of the requests.
    direct = np.bincount(node, weights=total, minlength=len(forest)).astype(np.float64)
    longest = np.zeros(len(forest), dtype=np.int64)
    np.maximum.at(longest, node, tokens)
    rows = direct.astype(np.int64)
    for below in reversed(forest.by_level()[1:]):
        parent = forest.parent[below]
        heads = np.flatnonzero(np.diff(parent, prepend=-1))
        into = parent[heads]
        rows[into] += np.add.reduceat(rows[below], heads)
        longest[into] = np.maximum(longest[into], np.maximum.reduceat(longest[below], heads))
    return direct, rows, longest
