"""What one token batch takes: arithmetic on its shape (docs/planner.md#the-batch-model)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.costs import Costs
from shoal.scheduler import TokenBatch


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
    - attention is a sum over work items, each for its pairs of query and KV token, or for reading
      its KV: a shared segment's once, however many rows use it;
    - head is for the rows whose logits are wanted;
    - overhead is per iteration, per shared segment, and per sequence and level of sharing.
    """
    work, rate, bandwidth = batch.attention, costs.flops_per_second, costs.bytes_per_second
    rows = (work.row_last - work.row_first).astype(np.int64)
    pairs = rows * work.kv_tokens - np.where(work.causal, rows * (rows - 1) // 2, 0)
    multiply = pairs * (costs.attention_flops / rate)
    read = work.kv_tokens * (costs.kv_bytes / bandwidth)

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
    return BatchTime(
        seconds=max(linear, weights) + attention + head + overhead,
        compute=linear + float(multiply.sum()) + head,
        memory=weights + float(read.sum()),
    )
