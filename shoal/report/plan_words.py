"""Where a plan's savings come from, in a paragraph of plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from shoal.planner import Plan
from shoal.report.plan_tree import segment_savings
from shoal.report.units import plural
from shoal.types import Int64Array

_LEAST_SHARE = 0.03
"""Of the saving: levels below it are summed up."""
_MOST_LEVELS = 3
_ORDINALS = ["The first level", "A second level", "A third level"]


def explanation(plan: Plan) -> str:
    """One paragraph: how much is shared, by what, and what remains."""
    return " ".join(_sentences(plan))


def _sentences(plan: Plan) -> Iterator[str]:
    total, saved = plan.prompt_tokens, plan.saved_prompt_tokens
    if not plan.num_sequences:
        yield "There is nothing to run."
        return
    if not plan.num_segments:
        yield f"No prefix is shared, so all {total:,} prompt tokens have to be computed."
        return
    left = plan.computed_prompt_tokens
    yield (
        f"{_percent(saved / total)} of the {total:,} prompt tokens stand at the beginning of a "
        f"prompt as another prompt has them too, and need not be computed again; {left:,} are "
        "left to compute."
    )
    yield from _levels(plan, saved)
    alone = int(np.count_nonzero(plan.sequence_segment < 0))
    if alone:
        verb = "shares" if alone == 1 else "share"
        yield f"{alone:,} {plural('sequence', alone)} {verb} nothing."


def _levels(plan: Plan, everything: int) -> Iterator[str]:
    savings = segment_savings(plan)
    level = segment_levels(plan)
    of_level = np.bincount(level, weights=savings)
    told = 0
    for k, saved in enumerate(of_level[:_MOST_LEVELS]):
        share = saved / everything
        told += 1
        if share < _LEAST_SHARE:
            continue
        texts = _texts(plan, np.flatnonzero(level == k))
        if len(of_level) == 1:
            yield f"It all comes from {texts}."
        else:
            yield f"{_ORDINALS[k]} brings {_percent(share)} of the saving: {texts}."
    rest = of_level[told:].sum() / everything
    if rest >= _LEAST_SHARE:
        deeper = len(of_level) - told
        yield f"{deeper:,} deeper {plural('level', deeper)} bring the other {_percent(rest)}."


def _texts(plan: Plan, chosen: Int64Array) -> str:
    """The segments of one level in words."""
    users, length = plan.segment_users[chosen], plan.segment_length[chosen]
    if len(chosen) == 1:
        every = "all " if users[0] == plan.num_sequences else ""
        tokens = f"{length[0]:,} {plural('token', int(length[0]))}"
        return f"one text of {tokens} that {every}{users[0]:,} sequences use"
    mean_length = np.average(length, weights=users)
    return (
        f"{len(chosen):,} texts of about {mean_length:,.0f} tokens, each used by about "
        f"{users.mean():,.0f} sequences"
    )


def segment_levels(plan: Plan) -> Int64Array:
    """Segments above each segment, int64 [S]."""
    level = np.zeros(plan.num_segments, dtype=np.int64)
    above = plan.segment_parent.astype(np.int64)
    while (deeper := above >= 0).any():
        level += deeper
        above = np.where(deeper, plan.segment_parent[above], -1)
    return level


def _percent(share: float) -> str:
    """A share; never rounded to all or nothing when it is neither."""
    if 0.995 <= share < 1:
        return f"{min(share, 0.9999):.2%}"
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"
