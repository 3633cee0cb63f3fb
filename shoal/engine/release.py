"""What a run gives up to devices that have nothing left to do: the end of its plan."""

from __future__ import annotations

import numpy as np

from shoal.planner import Plan
from shoal.simulate import PartSeconds, Stretches

MOST_REPEATED = 0.5
"""Of the work given up, what may be shared prefixes that are computed again elsewhere."""


def release_from(plan: Plan, seconds: PartSeconds, begun: int, end: int, parts: int) -> int | None:
    """The sequence from which on a run gives its plan up, or None: it is better kept.

    So that this device and each of the others end at about the same time.

    Args:
        begun, end: the sequences [begun, end) have not begun, and are still the run's.
        parts: devices that are idle.
    """
    heads = np.flatnonzero(plan.sequence_choice[begun:end] == 0)
    if not len(heads):
        return None
    found = Stretches(plan, seconds).cuts(begun + int(heads[0]), end, under_way=True)
    ends_at = np.maximum(found.before, found.after / parts) + found.again
    ends_at[found.again > MOST_REPEATED * found.after] = np.inf
    best = int(np.argmin(ends_at))
    return int(found.sequence[best]) if np.isfinite(ends_at[best]) else None
