"""Output limits far above what is generated: memory is kept for answers that never come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shoal.planner.plan import Plan
from shoal.types import BoolArray, Int64Array, RequestTable

_FEW = 32
"""So few sequences at a time make small token batches."""
_USUAL_TOKENS = 256
_FAR = 4
"""A limit is far above an answer, and a memory too small for it, by this factor."""
_QUANTILE = 0.99


@dataclass(frozen=True)
class LimitFinding:
    """Limits on output that keep sequences from running at the same time.

    Attributes:
        stated: the requests state a limit; otherwise it is the model's or the memory's.
        requests: those concerned.
        limit: tokens, the median of their limits.
        needed: tokens that 99 % of a former run's answers kept within; None: no run is known.
        fitting, fitting_if_needed: sequences that fit the KV pool at a time with the limit, and
            with `needed` (256 tokens if that is unknown).
        example: one of the requests.
    """

    stated: bool
    requests: int
    limit: int
    needed: int | None
    fitting: int
    fitting_if_needed: int
    example: int


def find_loose_limits(
    table: RequestTable,
    plan: Plan,
    capacity_tokens: int | None,
    generated: Int64Array | None = None,
) -> list[LimitFinding]:
    """Limits that are loose, stated ones first.

    Without a former run, a limit is loose when few sequences fit the KV pool at a time with it
    and several times as many would with answers of usual length. With one, when it is several
    times what nearly all answers took.

    Args:
        capacity_tokens: tokens the KV pool holds; None: unknown.
        generated: int64 [N], tokens per choice that a former run generated for each request,
            -1 where nothing is known; None: no run is known.
    """
    found: list[LimitFinding] = []
    stated = table.per_request([p.token_limit is not None for p in table.params]).astype(np.bool_)
    own = _own_tokens(table, plan)
    for state in (True, False):
        concerned = (stated == state) & table.generates
        if not concerned.any():
            continue
        finding = _loose(table, concerned, own, capacity_tokens, generated, state)
        if finding is not None:
            found.append(finding)
    return found


def _loose(
    table: RequestTable,
    concerned: BoolArray,
    own: Int64Array,
    capacity_tokens: int | None,
    generated: Int64Array | None,
    stated: bool,
) -> LimitFinding | None:
    limit = int(np.median(table.max_new_tokens[concerned]))
    needed = None
    if generated is not None and (known := concerned & (generated >= 0)).any():
        needed = max(1, int(np.quantile(generated[known], _QUANTILE, method="higher")))
    answer = needed if needed is not None else _USUAL_TOKENS
    if limit < _FAR * answer:
        return None
    capacity = capacity_tokens if capacity_tokens is not None else 0
    mean_own = float(own[concerned].mean())
    fitting, better = (int(capacity / (mean_own + tokens)) for tokens in (limit, answer))
    sequences = int(table.choices[concerned].sum())
    crowded = fitting < min(_FEW, sequences) and better >= _FAR * max(fitting, 1)
    if needed is None and (capacity_tokens is None or not crowded):
        return None
    return LimitFinding(
        stated=stated,
        requests=int(np.count_nonzero(concerned)),
        limit=limit,
        needed=needed,
        fitting=min(fitting, sequences),
        fitting_if_needed=min(better, sequences),
        example=int(np.flatnonzero(concerned)[0]),
    )


def _own_tokens(table: RequestTable, plan: Plan) -> Int64Array:
    """Computed prompt tokens of each request that no segment holds, int64 [N]."""
    shared = np.zeros(len(table), dtype=np.int64)
    shared[plan.sequence_request] = plan.shared_length
    own: Int64Array = table.computed_lengths - shared
    return own
