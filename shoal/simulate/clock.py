"""What one token batch takes: arithmetic on its shape (docs/planner.md#the-batch-model)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal.costs import AttentionCost, Costs
from shoal.scheduler import TokenBatch
from shoal.types import Int64Array
from shoal.work import SegmentWork

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BatchTime:
    """Seconds of one iteration.

    Attributes:
        seconds: all of it.
        compute: its arithmetic at full rate.
        memory: its reading of weights and KV at full rate.
    """

    seconds: float
    compute: float
    memory: float


def batch_time(batch: TokenBatch, costs: Costs) -> BatchTime:
    """The time of a batch: of each kind of work, whichever of compute and memory takes longer.

    seconds = linear + attention + head + overhead, where

    - linear is for all tokens and all layers, or for reading the weights (the head's included);
    - attention is a sum over kinds of layers and work items, each for its pairs of query and KV
      token, or for reading its KV: a shared segment's once, however many rows use it;
    - head is for the rows whose logits are wanted;
    - overhead is per iteration, per shared segment, and per sequence and level of sharing.
    """
    work, rate, bandwidth = batch.attention, costs.flops_per_second, costs.bytes_per_second
    works = [group.attention for group in batch.groups]
    if len(works) != len(costs.attention):
        works = [work] * len(costs.attention)  # all kinds are kept in one group
    both = [
        _attention_seconds(each, kind, costs)
        for each, kind in zip(works, costs.attention, strict=True)
    ]
    multiply, read = (np.concatenate(part) for part in zip(*both, strict=True))

    linear = batch.num_tokens * costs.flops_per_token / rate
    weights = costs.weight_bytes / bandwidth if batch.num_tokens else 0.0
    head = len(batch.logit_rows) * costs.head_flops / rate
    shared = ~work.causal
    starts = batch.chunks.row_starts[:-1]
    uses = np.searchsorted(starts, work.row_last[shared]) - np.searchsorted(
        starts, work.row_first[shared]
    )
    overhead = (
        costs.iteration_seconds
        + costs.segment_seconds * int(shared.sum())
        + costs.use_seconds * int(uses.sum())
    )
    attention = float(np.maximum(multiply, read).sum())
    states = 2 * len(batch.chunks) * costs.state_bytes / bandwidth
    return BatchTime(
        seconds=max(linear, weights) + attention + states + head + overhead,
        compute=linear + float(multiply.sum()) + head,
        memory=weights + float(read.sum()) + states,
    )


def _attention_seconds(
    work: SegmentWork, kind: AttentionCost, costs: Costs
) -> tuple[FloatArray, FloatArray]:
    """Seconds of the products, and of the reading, of each item in some layers; float64 [I] each.

    What no row of an item sees is not read.
    """
    rows = (work.row_last - work.row_first).astype(np.int64)
    tokens: Int64Array = work.kv_tokens.astype(np.int64)
    pairs = rows * tokens - np.where(work.causal, rows * (rows - 1) // 2, 0)
    if work.hides(kind.window):
        assert kind.window is not None
        hidden, unread = work.hidden_pairs(kind.window)
        pairs, tokens = pairs - hidden, tokens - unread
    multiply = kind.flops(pairs.astype(np.float64), tokens.astype(np.float64))
    read: FloatArray = tokens.astype(np.float64) * (kind.kv_bytes / costs.bytes_per_second)
    return multiply / costs.flops_per_second, read
