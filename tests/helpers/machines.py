"""Machines for tests of plans and simulations."""

from __future__ import annotations

from shoal.costs import BLOCK_SIZE, Costs, Machine, MemoryGroup, StateLayers

FREE = Costs(
    flops_per_token=1.0,
    head_flops=0.0,
    attention_flops=0.0,
    weight_bytes=0.0,
    kv_bytes=1024.0,
    flops_per_second=1.0,
    bytes_per_second=1e300,
)
"""Segments cost nothing, and nothing is folded."""


def machine(
    costs: Costs = FREE,
    *,
    budget: int = 4096,
    blocks: int = 10**7,
    block_size: int = BLOCK_SIZE,
    states: StateLayers | None = None,
    grouped: bool = False,
) -> Machine:
    """One with ample memory unless told otherwise.

    Args:
        grouped: whether each kind of layers has a memory of its own.
    """
    groups = tuple(
        MemoryGroup(layers=(layer,), kv_bytes=kind.kv_bytes, window=kind.window)
        for layer, kind in enumerate(costs.kinds if grouped else ())
    )
    return Machine(
        costs, budget, blocks * block_size, block_size=block_size, states=states, groups=groups
    )
