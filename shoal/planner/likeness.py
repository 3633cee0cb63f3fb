"""Which sequences of a plan are alike: those whose answers tell about one another's length.

A template is what a large part of the job begins with: the deepest segment that at least
`LARGE` sequences use. Sequences are alike when they have template and sampling parameters in
common; where those are fewer than `LARGE`, the parameters alone; else nothing but the job.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.planner.plan import Plan
from shoal.types import BoolArray, Int64Array, RequestTable

LARGE = 100
"""Sequences that make a class of their own."""


def nearest_kept(parent: Int64Array, kept: BoolArray) -> Int64Array:
    """For each of S segments, itself or its nearest ancestor that is kept, int64 [S + 1].

    -1: none; and for "no segment", the last entry. Paths are followed in strides that double.
    """
    found = np.append(np.where(kept, np.arange(len(kept)), parent), -1).astype(np.int64)
    while True:
        further = found[found]
        if np.array_equal(further, found):
            return found
        found = further


@dataclass(frozen=True)
class Likeness:
    """Classes of the Q sequences of a plan, as a tree: class 0 is the whole job.

    Attributes:
        of: int64 [Q], the narrowest class of each sequence.
        parent: int64 [C], the next wider class, below its own number; -1 for the job.
        template: int64 [Q], the sequence's template, a segment or -1.
        unit: int64 [Q], what cannot be taken apart without computing shared tokens twice: the
            users of the widest segment below the template, or the choices of a request. Numbered
            from 0 in no order.
    """

    of: Int64Array
    parent: Int64Array
    template: Int64Array
    unit: Int64Array


def likeness(plan: Plan, table: RequestTable) -> Likeness:
    """Put the sequences of a plan into classes."""
    parent = plan.segment_parent.astype(np.int64)
    large: BoolArray = plan.segment_users >= LARGE
    template = nearest_kept(parent, large)[plan.sequence_segment]
    # Users only become fewer on the way down, so the small segments of a path are its end.
    top: BoolArray = ~large & ((parent < 0) | np.append(large, True)[parent])
    widest = nearest_kept(parent, top | large)[plan.sequence_segment]
    alone = (widest < 0) | np.append(large, True)[widest]
    unit = np.where(alone, plan.num_segments + plan.sequence_request, widest)

    params = table.params_index[plan.sequence_request].astype(np.int64)
    of_params, params_class = _large_classes(params, first=1)
    both = template * len(table.params) + params
    of_both, both_class = _large_classes(
        np.where((template >= 0) & (of_params > 0), both, -1), first=1 + len(params_class)
    )
    return Likeness(
        of=np.where(of_both > 0, of_both, of_params),
        parent=np.concatenate([[-1], np.zeros(len(params_class)), of_params[both_class]]).astype(
            np.int64
        ),
        template=template,
        unit=unit,
    )


def _large_classes(key: Int64Array, first: int) -> tuple[Int64Array, Int64Array]:
    """Number the keys that `LARGE` sequences have, from `first`; negative keys do not count.

    Returns:
        The class of each sequence, 0: none, and one sequence of each class.
    """
    keys, example, inverse, count = np.unique(
        key, return_index=True, return_inverse=True, return_counts=True
    )
    chosen = (count >= LARGE) & (keys >= 0)
    number = np.where(chosen, first - 1 + np.cumsum(chosen), 0)
    return number[inverse.reshape(-1)].astype(np.int64), example[chosen].astype(np.int64)
