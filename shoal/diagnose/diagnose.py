"""Look for all mistakes, and keep those worth telling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shoal.diagnose.chunks import find_shuffled_chunks
from shoal.diagnose.field import find_varying_fields
from shoal.diagnose.finding import Finding
from shoal.diagnose.limits import LimitFinding, find_loose_limits
from shoal.diagnose.sample import Prompts, take
from shoal.diagnose.spelling import find_spellings
from shoal.diagnose.tokens import TokenBytes, token_texts
from shoal.planner.forest import Forest
from shoal.planner.plan import Plan
from shoal.types import Int64Array, RequestTable

_LEAST_SHARE = 0.02
_LEAST_TOKENS = 256
_FEWEST_REQUESTS = 8
_TEXTS = {"requests": 1 << 13, "tokens": 1 << 20}
_EXPLAINS = 0.8
"""A field is not told when another mistake explains this much of its cost."""


@dataclass(frozen=True)
class Diagnoses:
    """What was found.

    Attributes:
        prompts: dearest first.
        limits: loose output limits.
        computable_tokens: prompt tokens left to compute if every shared one is computed once:
            what the costs are a share of.
    """

    prompts: list[Finding]
    limits: list[LimitFinding]
    computable_tokens: int


def diagnose(
    table: RequestTable,
    plan: Plan,
    forest: Forest,
    token_bytes: TokenBytes,
    *,
    capacity_tokens: int | None = None,
    generated: Int64Array | None = None,
) -> Diagnoses:
    """Find what costs at least 2 % of the prompt tokens that the run would compute.

    Deterministic. Of a prompt counts what a run has to compute; see `computed_lengths`.

    Args:
        forest: of the table's prompts.
        token_bytes: the bytes of a token id; called for distinct tokens only.
        capacity_tokens, generated: see `find_loose_limits`.
    """
    limits = find_loose_limits(table, plan, capacity_tokens, generated)
    saved = int(((forest.end - forest.start) * (forest.users - 1)).sum())
    computed = table.computed_lengths
    left = int((computed * table.choices).sum()) - saved
    least = max(int(np.ceil(_LEAST_SHARE * left)), _LEAST_TOKENS)
    by_rank = np.argsort(forest.rank)
    by_rank = by_rank[computed[by_rank] > 0]
    found: list[Finding] = []
    if len(by_rank) >= _FEWEST_REQUESTS:
        found = _distinct(
            find_varying_fields(table, forest, by_rank, least),
            _text_findings(table, by_rank, token_bytes),
            least,
        )
    return Diagnoses(found, limits, left)


def _text_findings(
    table: RequestTable, by_rank: Int64Array, token_bytes: TokenBytes
) -> list[Finding]:
    """Findings that need to know what tokens look like."""
    prompts = take(table, by_rank, **_TEXTS)
    texts, text_index = token_texts(prompts.tokens, token_bytes)
    saved = prompts.saved()
    found = [
        find(prompts, texts, text_index, saved) for find in (find_spellings, find_shuffled_chunks)
    ]
    return [_scaled(f, table, by_rank, prompts) for f in found if f is not None]


def _scaled(
    finding: Finding, table: RequestTable, by_rank: Int64Array, prompts: Prompts
) -> Finding:
    """A finding in a part of the requests, for all of them."""
    if len(prompts) == len(by_rank):
        return finding
    total = int((table.computed_lengths[by_rank] * table.choices[by_rank]).sum())
    return replace(
        finding,
        requests=round(finding.requests * len(by_rank) / len(prompts)),
        cost_tokens=int(finding.cost_tokens * total / max(prompts.prompt_tokens, 1)),
        exact=False,
    )


def _distinct(fields: list[Finding], others: list[Finding], least: int) -> list[Finding]:
    """Findings that cost enough, each mistake told once.

    White space, spelling and order make texts differ early too, and so can look like a varying
    field; then the field is not told.
    """
    simple = [f for f in others if f.cost_tokens >= least]
    dearest = max((f.cost_tokens for f in simple), default=0)
    fields = [f for f in fields if dearest < _EXPLAINS * f.cost_tokens]
    return sorted(simple + fields, key=lambda f: -f.cost_tokens)
