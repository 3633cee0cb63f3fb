"""What parts of a job cost: matrix products, attention and KV to read, counted exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import Costs
from shoal.planner.logit_rows import scored_rows, segment_logit_rows
from shoal.planner.tree import Tree
from shoal.types import Int64Array

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WorkCounts:
    """Counts of M parts of a job, each computed once.

    Attributes:
        counts: int64 [4, M]: tokens run through the model; rows whose logits are wanted, to
            sample or to score what follows; pairs of a query token and a KV token; KV tokens that
            decoding reads, each once per iteration however many rows use it.
    """

    counts: Int64Array

    @property
    def reads(self) -> Int64Array:
        """KV tokens read by decoding, int64 [M]."""
        reads: Int64Array = self.counts[3]
        return reads

    def compute_seconds(self, costs: Costs | None) -> FloatArray:
        """Time of the arithmetic alone, float64 [M]; None: the tokens run."""
        tokens: Int64Array = self.counts[0]
        heads, pairs = self.counts[1], self.counts[2]
        if costs is None:
            return tokens.astype(np.float64)
        flops = (
            costs.flops_per_token * tokens
            + costs.head_flops * heads
            + costs.attention_flops * pairs
        )
        return np.asarray(flops / costs.flops_per_second)

    def memory_seconds(self, costs: Costs | None) -> FloatArray:
        """Time of reading KV while decoding, float64 [M]; None: the tokens read."""
        if costs is None:
            return self.reads.astype(np.float64)
        return np.asarray(costs.kv_bytes * self.reads / costs.bytes_per_second)

    def summed(self, into: Int64Array, count: int) -> WorkCounts:
        """Sums over the parts that have the same number in `into`, [count]."""
        total = np.zeros((4, count), dtype=np.int64)
        for row, column in zip(total, self.counts, strict=True):
            np.add.at(row, into, column)
        return WorkCounts(total)


def request_work(tree: Tree) -> WorkCounts:
    """What each request's choices do, their segments apart; [N].

    A choice that generates o tokens decodes o - 1 times: the first comes from its prompt's last
    position, the last is never fed back. A decode reads what the sequence has of its own by then.
    """
    own, decodes = tree.own, tree.output - 1
    grown = decodes * own + _triangle(decodes)
    pairs = own * tree.shared + _triangle(own) + decodes * tree.shared + grown
    # One that has nothing of its own samples its first token from its segment's logits.
    heads = decodes + tree.samples * (own > 0) + scored_rows(tree)
    return WorkCounts(np.stack([own + decodes, heads, pairs, grown]) * tree.choices)


def segment_work(tree: Tree) -> WorkCounts:
    """What computing each segment once takes, and reading it while its longest answer decodes; [S].

    Its users are taken to decode together.
    """
    length, decodes = tree.length, tree.highest(tree.output) - 1
    pairs = length * tree.start + _triangle(length)
    heads = segment_logit_rows(tree)
    return WorkCounts(np.stack([length, heads, pairs, length * decodes]))


def _triangle(count: Int64Array) -> Int64Array:
    """1 + 2 + ... + count."""
    return count * (count + 1) // 2
