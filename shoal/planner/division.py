"""How one KV memory is divided between groups of layers, for one plan."""

from __future__ import annotations

import numpy as np

from shoal.costs import Machine, MemoryGroup
from shoal.planner.peak import expected_peaks
from shoal.planner.plan import Plan
from shoal.types import Int64Array, RequestTable


def divided(plan: Plan, table: RequestTable, machine: Machine) -> list[int]:
    """KV blocks for each group of layers; together no more bytes than the pool has.

    Groups get their parts of the peak that is expected of them. One with a window gets as much as
    the largest sequence needs, at least, and a batch's chunks beside it. It never gets more blocks
    than there would be if nothing were freed; so every sequence that fits then fits now.
    """
    groups, whole = machine.memory, machine.num_blocks
    rest, *others = groups
    if not others:
        return [whole]
    peaks = expected_peaks(plan, table, machine)
    total = whole * sum(group.kv_bytes for group in groups)
    size = machine.block_size
    demand = sum(
        -(-tokens // size) * group.kv_bytes for tokens, group in zip(peaks, groups, strict=True)
    )
    chunks = -(-machine.token_budget // size)
    blocks = []
    for tokens, group in zip(peaks[1:], others, strict=True):
        wanted = int(tokens / size * total / max(demand, 1.0)) + chunks
        least = _largest(plan, table, group, size)
        blocks.append(min(max(wanted, least), whole))
    taken = sum(count * group.kv_bytes for count, group in zip(blocks, others, strict=True))
    return [int((total - taken) // rest.kv_bytes), *blocks]


def _largest(plan: Plan, table: RequestTable, group: MemoryGroup, block_size: int) -> int:
    """Most blocks that one sequence needs in a group, its segments' included."""
    cap = None if group.window is None else group.window.most_blocks(block_size)

    def most(tokens: Int64Array) -> Int64Array:
        blocks: Int64Array = -(-tokens // block_size)
        return blocks if cap is None else np.minimum(blocks, cap)

    path = np.append(most(plan.segment_length.astype(np.int64)), 0)
    for segment, parent in enumerate(plan.segment_parent.tolist()):
        if parent >= 0:  # parents come before their children
            path[segment] += path[parent]
    request = plan.sequence_request
    own = table.computed_lengths[request] - plan.shared_length
    needed = path[plan.sequence_segment] + most(own + table.max_new_tokens[request])
    return int(needed.max(initial=1))
