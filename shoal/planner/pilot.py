"""A pilot: a small sample of every large class runs first, and tells how long answers get.

Only limits are known before a run, and where they are loose, order and memory are planned for
answers that never come. BlendServe (ASPLOS 2026) found a sample of 1 % nearly as good as knowing
all lengths.
"""

from __future__ import annotations

import numpy as np

from shoal.config import Order
from shoal.planner.lengths import LengthModel, fixed_lengths
from shoal.planner.likeness import Likeness, likeness
from shoal.planner.plan import Plan
from shoal.planner.rearrange import with_first, with_groups_sorted
from shoal.planner.survival import FloatArray
from shoal.types import BoolArray, Int32Array, Int64Array, RequestTable

_SHARE = 0.01
"""Of the sequences of each class, ..."""
_LEAST = 4
"""... but no fewer."""
_MOST = 0.03
"""Of all sequences, where the least of every class, or units that are large, add up."""
_RECOMPUTED_SHARE = 0.01
"""Prompt tokens that may be computed twice, of those that the plan computes."""
_SMALL_JOB = 1000
"""Sequences below which there is no pilot."""
_LOOSE_TOKENS = 64
"""A lower limit is not worth a pilot."""
_ENOUGH = 0.9
"""Share of the pilot that must have ended before the rest is ordered anew."""


def pilot_first(plan: Plan, table: RequestTable) -> tuple[Plan, int]:
    """The plan with a pilot in front of the rest, and the sequences in it; 0: none is worth it.

    There is none for a small job, for lengths that are known or bounded tightly, when all
    sequences are alike (the first to end tell as much), nor in the input's own order, nor with
    adapters, which would be loaded twice. The segments of a pilot are computed again for the rest;
    `Plan.computed_prompt_tokens` says so.
    """
    small = plan.num_sequences < _SMALL_JOB
    if plan.order is Order.input or small or table.adapter is not None:
        return plan, 0
    chosen = _choose(plan, table, likeness(plan, table))
    count = int(np.count_nonzero(chosen))
    return (with_first(plan, chosen, table), count) if count else (plan, 0)


def _choose(plan: Plan, table: RequestTable, alike: Likeness) -> BoolArray:
    """Which sequences to run first, bool [Q]: whole units, spread evenly over each class.

    Classes are taken while the pilot and what it computes again stay within bounds, those of many
    sequences per token computed again first.
    """
    request = plan.sequence_request
    loose = (table.max_new_tokens >= _LOOSE_TOKENS) & ~fixed_lengths(table)
    eligible = np.flatnonzero(loose[request] & (alike.of > 0))
    sample = _evenly(alike.of[eligible], alike.unit[eligible], len(alike.parent))
    sample = eligible[sample]
    sampled_class = alike.of[sample]
    if len(np.unique(sampled_class)) < 2:
        return np.zeros(plan.num_sequences, dtype=np.bool_)

    # What a class computes again: the templates of its sample, each with all that is above it.
    ends = np.append(plan.segment_end, 0).astype(np.int64)
    pairs = np.unique(np.stack([sampled_class, alike.template[sample]]), axis=1)
    again = np.bincount(pairs[0], weights=ends[pairs[1]], minlength=len(alike.parent))
    size = np.bincount(alike.of[eligible], minlength=len(alike.parent))
    classes = np.unique(sampled_class)
    classes = classes[np.argsort(again[classes] / size[classes], kind="stable")]
    unit_size = np.bincount(alike.unit)[alike.unit[sample]]
    pilots = np.bincount(sampled_class, weights=unit_size, minlength=len(alike.parent))
    few = np.cumsum(pilots[classes]) <= _MOST * plan.num_sequences
    bound = _RECOMPUTED_SHARE * plan.computed_prompt_tokens
    taken = classes[few & (np.cumsum(again[classes]) <= bound)]
    units = alike.unit[sample[np.isin(sampled_class, taken)]]
    chosen: BoolArray = np.isin(alike.unit, units)
    return chosen


def _evenly(class_: Int64Array, unit: Int64Array, num_classes: int) -> Int64Array:
    """One sequence of each unit of the sample: of each class about `_SHARE` of its sequences.

    Args:
        class_, unit: int64 [E], in the plan's order.
    """
    # Units class by class, each where it first appears.
    key = class_ * (unit.max(initial=0) + 1) + unit
    first = np.unique(key, return_index=True)[1]
    first = first[np.lexsort((first, class_[first]))]
    units = np.bincount(class_[first], minlength=num_classes)
    size = np.bincount(class_, minlength=num_classes)
    wanted = np.maximum(np.ceil(_SHARE * size), _LEAST)
    picks = np.minimum(np.ceil(wanted * units / np.maximum(size, 1)), units).astype(np.int64)
    of_pick = np.repeat(np.arange(num_classes), picks)
    index = np.arange(len(of_pick)) - np.repeat(np.cumsum(picks) - picks, picks)
    step = units[of_pick] / picks[of_pick]
    position = (np.cumsum(units) - units)[of_pick] + ((index + 0.5) * step).astype(np.int64)
    sample: Int64Array = first[position]
    return sample


class Pilot:
    """Watches a run for the end of its pilot, and then orders what has not begun anew."""

    def __init__(self, table: RequestTable, lengths: LengthModel, sequences: int) -> None:
        """`sequences`: the first ones of the plan, as `pilot_first` says."""
        self._table, self._lengths, self._sequences = table, lengths, sequences
        self._missing = int(np.ceil(_ENOUGH * sequences))

    def ended(self, sequences: Int32Array) -> bool:
        """Count sequences that have ended; True once, when enough of the pilot have."""
        if self._missing <= 0:
            return False
        self._missing -= int(np.count_nonzero(sequences < self._sequences))
        return self._missing <= 0

    def replan(self, plan: Plan, first_untouched: int) -> Plan:
        """The plan with the groups that begin at a sequence or later ordered by what was learnt.

        For `Order.ratio` alone: most output per prompt token to compute first.
        """
        bounds = plan.groups.astype(np.int64)
        begin = int(np.searchsorted(bounds, first_untouched))
        if plan.order is not Order.ratio or begin >= len(bounds) - 1:
            return plan
        start = int(bounds[begin])
        request = plan.sequence_request[start:].astype(np.int64)
        prefill = (self._table.computed_lengths[request] - plan.shared_length[start:]).astype(
            np.float64
        )
        new = plan.segment_first >= start
        np.add.at(prefill, plan.segment_first[new] - start, plan.segment_length[new])
        heads = bounds[begin:-1] - start
        output = np.add.reduceat(self._lengths.expected(request), heads)
        with np.errstate(divide="ignore"):
            key: FloatArray = -output / np.add.reduceat(prefill, heads)
        return with_groups_sorted(plan, begin, key)
