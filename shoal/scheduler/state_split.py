"""How a run divides its memory between the KV of tokens and the states of recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.costs import Machine
from shoal.planner import Plan
from shoal.scheduler.pool import BlockPool
from shoal.scheduler.state_slots import StateSlots
from shoal.types import RequestTable


@dataclass(frozen=True)
class StateSplit:
    """KV blocks and states; together they take what the machine's memory holds."""

    blocks: int
    states: int

    def slots(self) -> StateSlots:
        """The bookkeeping of the states, all free."""
        return StateSlots(BlockPool(self.states, 1))


def state_split(plan: Plan, table: RequestTable, machine: Machine) -> StateSplit | None:
    """The division by which a plan's sequences are expected to fill both at once.

    Whatever fits by `make_plan` fits: the largest request has its blocks, and the one behind most
    segments its states.

    Returns:
        None: the model has no states.
    """
    if machine.states is None:
        return None
    size = machine.block_size
    each = machine.states.tokens / size
    total = machine.num_blocks + each
    request = plan.sequence_request
    prompt = table.computed_lengths[request] - plan.shared_length
    shared = -(-plan.segment_length.astype(np.int64) // size)
    depth, path = np.zeros(plan.num_segments + 1, dtype=np.int64), np.append(shared, 0)
    for segment, parent in enumerate(plan.segment_parent.tolist()):
        # A parent stands before its children.
        depth[segment] = depth[parent] + 1
        path[segment] += path[parent]
    own = -(-(prompt + table.max_new_tokens[request] - 1) // size)
    least_blocks = int((own + path[plan.sequence_segment]).max(initial=1))
    least_states = int(depth[plan.sequence_segment].max(initial=0)) + 1
    held = -(-(prompt + table.expected_new_tokens[request]) // size)
    owners = plan.num_sequences + plan.num_segments
    ratio = max(int(held.sum() + shared.sum()) / max(owners, 1), 1e-9)
    states = int(total / (each + ratio))
    states = max(min(states, int((total - least_blocks) / each)), least_states)
    # More are never held at once.
    states = min(states, owners + 1)
    return StateSplit(int(total - states * each), states)
