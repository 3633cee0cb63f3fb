"""Plans made of a plan: some sequences first, or groups in another order. Pure functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from shoal.planner.likeness import nearest_kept
from shoal.planner.plan import Plan
from shoal.types import BoolArray, Int64Array, RequestTable


def with_first(plan: Plan, chosen: BoolArray, table: RequestTable) -> Plan:
    """The plan with some sequences in front, both parts in the plan's order.

    A segment that both parts use is computed for each.

    Args:
        chosen: bool [Q], whole requests only.
    """
    return _joined(restricted(plan, chosen, table), restricted(plan, ~chosen, table))


def restricted(plan: Plan, kept: BoolArray, table: RequestTable) -> Plan:
    """The plan of some sequences. What only one of them would use is its own."""
    before = np.append(0, np.cumsum(kept))
    first, last = before[plan.segment_first], before[plan.segment_last]
    shared: BoolArray = last - first >= 2
    number = np.append(np.where(shared, np.cumsum(shared) - 1, -1), -1)
    deepest = nearest_kept(plan.segment_parent.astype(np.int64), shared)
    request = plan.sequence_request[kept]
    computed = int(table.computed_lengths[request].sum())
    saved = plan.segment_length.astype(np.int64) * np.maximum(last - first - 1, 0)
    return replace(
        plan,
        segment_parent=number[plan.segment_parent[shared]].astype(np.int32),
        segment_start=plan.segment_start[shared],
        segment_length=plan.segment_length[shared],
        segment_request=plan.segment_request[shared],
        segment_first=first[shared].astype(np.int32),
        segment_last=last[shared].astype(np.int32),
        sequence_request=request,
        sequence_choice=plan.sequence_choice[kept],
        sequence_segment=number[deepest[plan.sequence_segment[kept]]].astype(np.int32),
        prompt_tokens=int(table.lengths[request].sum()),
        computed_prompt_tokens=computed - int(saved.sum()),
    )


def _joined(a: Plan, b: Plan) -> Plan:
    """All of `a`, then all of `b`."""
    segments, sequences = np.int32(a.num_segments), np.int32(a.num_sequences)

    def both(name: str, shift: int | np.int32 = 0) -> npt.NDArray[np.int32]:
        second = getattr(b, name)
        return np.concatenate([getattr(a, name), np.where(second < 0, second, second + shift)])

    return replace(
        a,
        segment_parent=both("segment_parent", segments),
        segment_start=both("segment_start"),
        segment_length=both("segment_length"),
        segment_request=both("segment_request"),
        segment_first=both("segment_first", sequences),
        segment_last=both("segment_last", sequences),
        sequence_request=both("sequence_request"),
        sequence_choice=both("sequence_choice"),
        sequence_segment=both("sequence_segment", segments),
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        computed_prompt_tokens=a.computed_prompt_tokens + b.computed_prompt_tokens,
    )


def with_groups_sorted(plan: Plan, begin: int, key: npt.NDArray[np.float64]) -> Plan:
    """The plan with its groups from number `begin` on in ascending order of `key`, ties as before.

    Sequences and segments of the groups before keep their numbers.

    Args:
        begin: index into `plan.groups`.
        key: float64 [groups - begin].
    """
    bounds = plan.groups.astype(np.int64)
    order = np.append(np.arange(begin), begin + np.argsort(key, kind="stable"))
    group_of_segment = np.searchsorted(bounds, plan.segment_first, side="right") - 1
    segment_bounds = np.searchsorted(group_of_segment, np.arange(len(bounds)))
    sequence = _ranges(bounds, order)
    segment = _ranges(segment_bounds, order)
    moved_to = np.empty(plan.num_sequences + 1, dtype=np.int64)
    moved_to[sequence] = np.arange(len(sequence))
    number = np.full(plan.num_segments + 1, -1, dtype=np.int64)
    number[segment] = np.arange(len(segment))
    first = moved_to[plan.segment_first[segment]]
    return replace(
        plan,
        segment_parent=number[plan.segment_parent[segment]].astype(np.int32),
        segment_start=plan.segment_start[segment],
        segment_length=plan.segment_length[segment],
        segment_request=plan.segment_request[segment],
        segment_first=first.astype(np.int32),
        segment_last=(first + plan.segment_users[segment]).astype(np.int32),
        sequence_request=plan.sequence_request[sequence],
        sequence_choice=plan.sequence_choice[sequence],
        sequence_segment=number[plan.sequence_segment[sequence]].astype(np.int32),
    )


def _ranges(bounds: Int64Array, order: Int64Array) -> Int64Array:
    """The numbers bounds[i] to bounds[i + 1], for each i of `order` in turn."""
    size = np.diff(bounds)[order]
    shift = bounds[:-1][order] - (np.cumsum(size) - size)
    numbers: Int64Array = np.arange(int(size.sum())) + np.repeat(shift, size)
    return numbers
