"""What running a model on a machine costs: the numbers that plans are weighed with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Work per token of a model, and rates of the machine that runs it.

    docs/planner.md#the-batch-model says what they are weighed with.

    Attributes:
        flops_per_token: FLOP of the matrix products of all layers for one token (2 per weight).
        head_flops: FLOP of the output head for one sampled row.
        attention_flops: FLOP of all layers for one pair of a query token and a KV token.
        weight_bytes: bytes of weights that every iteration reads.
        kv_bytes: bytes of KV of one token in all layers.
        flops_per_second: rate of large matrix products.
        bytes_per_second: rate at which weights and KV are read.
        iteration_seconds: what an iteration takes beyond its work.
        segment_seconds: per iteration and shared segment in use, beyond its work.
        use_seconds: per iteration, decoding sequence and level of sharing: merging one more part.
    """

    flops_per_token: float
    head_flops: float
    attention_flops: float
    weight_bytes: float
    kv_bytes: float
    flops_per_second: float
    bytes_per_second: float
    iteration_seconds: float = 0.0
    segment_seconds: float = 0.0
    use_seconds: float = 0.0
