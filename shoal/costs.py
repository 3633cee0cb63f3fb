"""What running a model on a machine costs, and what the machine holds: what plans are made for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shoal.work import Window

BLOCK_SIZE = 32
"""Tokens per KV block: the C++ attention kernel's tile of keys."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a machine does per second with one model.

    Attributes:
        flops_per_second: rate of large matrix products.
        bytes_per_second: rate at which weights and KV are read.
        iteration_seconds: what an iteration takes beyond its work.
        segment_seconds: per iteration and shared segment in use, beyond its work.
        use_seconds: per iteration, decoding sequence and level of sharing: merging one more part.
    """

    flops_per_second: float
    bytes_per_second: float
    iteration_seconds: float = 0.0
    segment_seconds: float = 0.0
    use_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Costs(Rates):
    """The work per token of a model, at the rates of a machine.

    docs/planner.md#the-batch-model says what they are weighed with.

    Attributes:
        flops_per_token: FLOP of the matrix products of all layers for one token (2 per weight).
        head_flops: FLOP of the output head for one sampled row.
        attention_flops: FLOP of all layers for one pair of a query token and a KV token.
        weight_bytes: bytes of weights that every iteration reads.
        kv_bytes: bytes of KV of one token in all layers.
        state_bytes: bytes of the state of one sequence in all recurrent layers.
    """

    flops_per_token: float
    head_flops: float
    attention_flops: float
    weight_bytes: float
    kv_bytes: float
    state_bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MemoryGroup:
    """Layers whose KV lives and dies together.

    Attributes:
        layers: their indices, ascending.
        kv_bytes: bytes of KV of one token in these layers.
        attention_flops: FLOP of these layers for one pair of a query token and a KV token.
        window: what their rows see; None: everything.
    """

    layers: tuple[int, ...]
    kv_bytes: float
    attention_flops: float
    window: Window | None = None


class RatesSource(StrEnum):
    """Where a machine's rates come from."""

    measured = "measured"
    assumed = "assumed"


@dataclass(frozen=True)
class StateLayers:
    """Layers that keep a state of a fixed size for each sequence and shared segment.

    Attributes:
        tokens: KV tokens that take as many bytes as one state.
    """

    tokens: float


@dataclass(frozen=True)
class Machine:
    """A machine with one model on it, as far as a plan depends on it.

    Attributes:
        costs: the model's work, at the machine's rates.
        token_budget: most tokens in one iteration.
        kv_tokens: tokens that the KV pool holds. A request needs prompt + max_new_tokens - 1.
        source: whether the rates were measured on it, or are those of a common machine.
        groups: the model's layers by the kind of their memory, those that see everything first.
            `kv_tokens` is what would fit if all did. Empty: one group, of all layers.
        states: layers that keep a state; None: there are none. Beside `kv_tokens` the memory holds
            one state; a run divides all of it anew.
        block_size: tokens per KV block; a miniature has smaller ones (`shoal.simulate`).
        adapter_bytes: memory for the adapters in use, beside the KV pool.
    """

    costs: Costs
    token_budget: int
    kv_tokens: int
    source: RatesSource = RatesSource.measured
    block_size: int = BLOCK_SIZE
    groups: tuple[MemoryGroup, ...] = ()
    states: StateLayers | None = None
    adapter_bytes: int = 0

    @property
    def memory(self) -> tuple[MemoryGroup, ...]:
        """The groups, at least one."""
        costs = self.costs
        whole = MemoryGroup(
            layers=(), kv_bytes=costs.kv_bytes, attention_flops=costs.attention_flops
        )
        return self.groups or (whole,)

    @property
    def num_blocks(self) -> int:
        """KV blocks of the pool."""
        return self.kv_tokens // self.block_size
