"""What parts of a job cost: matrix products, attention and KV to read, counted exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Costs
from shoal.planner.logit_rows import scored_rows, segment_logit_rows
from shoal.planner.seen_pairs import DecodingRows, seen_pairs, seen_while_decoding
from shoal.planner.tree import Tree
from shoal.types import Int64Array
from shoal.work import Window

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WorkCounts:
    """Counts of M parts of a job, each computed once, for K kinds of layers (`Costs.attention`).

    Attributes:
        counts: int64 [2 + 3·K, M]: tokens run through the model; rows whose logits are wanted, to
            sample or to score what follows; then for each kind of layers: pairs of a query token
            and a KV token that it sees; those of them whose KV one decoding row has alone; KV
            tokens that decoding reads, each once per iteration however many rows use it.
    """

    counts: Int64Array

    @property
    def reads(self) -> Int64Array:
        """KV tokens read by decoding in each kind of layers, int64 [K, M]."""
        reads: Int64Array = self.counts[4::3]
        return reads

    def compute_seconds(self, costs: Costs | None) -> FloatArray:
        """Time of the arithmetic alone, float64 [M]; None: the tokens run."""
        tokens: Int64Array = self.counts[0]
        if costs is None:
            return tokens.astype(np.float64)
        flops = costs.flops_per_token * tokens + costs.head_flops * self.counts[1]
        return np.asarray(
            (flops + self.attention_flops(costs).sum(axis=0)) / costs.flops_per_second
        )

    def attention_flops(self, costs: Costs) -> FloatArray:
        """FLOP of attention in each kind of layers, float64 [K, M].

        Of layers with latents no less than this: who shares KV is taken to be many rows, for which
        keys and values are made of it at no cost.
        """
        pairs, alone = self.counts[2::3].astype(np.float64), self.counts[3::3].astype(np.float64)
        found = [
            kind.flops(p - a, np.zeros_like(p)) + kind.flops(a, a)
            for kind, p, a in zip(costs.attention, pairs, alone, strict=True)
        ]
        return np.stack(found)

    def read_bytes(self, costs: Costs) -> FloatArray:
        """Bytes of KV read by decoding in each kind of layers, float64 [K, M]."""
        kv_bytes = np.array([[kind.kv_bytes] for kind in costs.attention])
        return np.asarray(self.reads * kv_bytes)

    def memory_seconds(self, costs: Costs | None) -> FloatArray:
        """Time of reading KV while decoding, float64 [M]; None: the tokens read."""
        if costs is None:
            return np.asarray(self.reads.sum(axis=0), dtype=np.float64)
        return np.asarray(self.read_bytes(costs).sum(axis=0) / costs.bytes_per_second)

    def read_tokens(self, costs: Costs) -> FloatArray:
        """KV tokens read by decoding, as tokens in all layers: by their bytes; float64 [M]."""
        if len(costs.attention) == 1:
            return np.asarray(self.reads[0], dtype=np.float64)
        every = sum(kind.kv_bytes for kind in costs.attention)
        return np.asarray(self.read_bytes(costs).sum(axis=0) / every)

    def summed(self, into: Int64Array, count: int) -> WorkCounts:
        """Sums over the parts that have the same number in `into`, [count]."""
        total = np.zeros((len(self.counts), count), dtype=np.int64)
        for row, column in zip(total, self.counts, strict=True):
            np.add.at(row, into, column)
        return WorkCounts(total)


def windows_of(costs: Costs | None) -> list[Window | None]:
    """What each kind of layers sees; None: one that sees everything."""
    return [None] if costs is None else [kind.window for kind in costs.attention]


def request_work(tree: Tree, windows: Sequence[Window | None] = (None,)) -> WorkCounts:
    """What each request's choices do, their segments apart; [N].

    A choice that generates o tokens decodes o - 1 times: the first comes from its prompt's last
    position, the last is never fed back. A decode reads what the sequence has of its own by then.

    Args:
        windows: of each kind of layers.
    """
    decodes = tree.output - 1
    begin, end, shared = tree.prompt, tree.prompt + decodes, tree.shared
    # One that has nothing of its own samples its first token from its segment's logits.
    heads = decodes + tree.samples * (tree.own > 0) + scored_rows(tree)
    rows = [tree.own + decodes, heads]
    for window in windows:
        reads = seen_pairs(window, (begin, end), (shared, end))
        rows += [seen_pairs(window, (shared, end), (0 * end, end)), reads, reads]
    return WorkCounts(np.stack(rows) * tree.choices)


def segment_work(tree: Tree, windows: Sequence[Window | None] = (None,)) -> WorkCounts:
    """What computing each segment once takes, and reading it while its users decode; [S].

    Its users are taken to decode together: what the one reads that reads most, the others read in
    the same iterations.

    Args:
        windows: as above.
    """
    length, start, end = tree.length, tree.start, tree.end
    decodes = tree.output - 1
    rows = [length, segment_logit_rows(tree)]
    for window in windows:
        if window is None:
            reads = length * tree.highest(decodes)
        else:
            decoding = DecodingRows(tree.leaf, tree.prompt, tree.prompt + decodes, tree.choices)
            reads = seen_while_decoding(window, (tree.parent, start, end), decoding).most
        rows += [seen_pairs(window, (start, end), (0 * end, end)), 0 * length, reads]
    return WorkCounts(np.stack(rows))
