"""Drawing tokens: temperature, min-p, top-k, top-p, then one uniform through the inverse CDF.

The truncations are those of transformers' warpers: min-p keeps tokens at least `min_p` times as
likely as the likeliest; top-k keeps the k likeliest and whatever ties with the k-th; top-p keeps
the fewest likeliest tokens whose mass, within what the others left, reaches `top_p`. Among equal
logits the lower token id counts as likelier.

A row's result depends on that row alone, never on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

CANDIDATES = 512
"""Likeliest tokens looked at first; a row that needs more is sorted whole."""


@dataclass(frozen=True)
class DrawParams:
    """How to draw each of S rows; every field is a tensor [S] on the logits' device.

    Attributes:
        temperature: float32, above 0.
        min_p: float32, 0 keeps all.
        top_k: int64, at least 1; the vocabulary's size keeps all.
        top_p: float64, 1 keeps all.
        uniforms: float64, strictly between 0 and 1.
    """

    temperature: torch.Tensor
    min_p: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    uniforms: torch.Tensor

    def rows(self, index: torch.Tensor) -> DrawParams:
        """The rows at `index`."""
        return DrawParams(
            self.temperature[index],
            self.min_p[index],
            self.top_k[index],
            self.top_p[index],
            self.uniforms[index],
        )


@dataclass(frozen=True)
class Kinds:
    """What the host knows of S rows to draw, so that the device need not be asked.

    Attributes:
        min_p: whether a row has one.
        truncated: int64 [any], the rows with top-k or top-p, on the logits' device.
    """

    min_p: bool
    truncated: torch.Tensor


Rest = Callable[[torch.Tensor, torch.Tensor, DrawParams, torch.Tensor, torch.Tensor], torch.Tensor]
"""Draws the rows that need more than `CANDIDATES` tokens.

Called with scores [K, vocab], the mass of exp(score) over each row, float64 [K], how to draw, the
tokens of the other rows [K], and which need more, bool [K]. Gives the tokens of all [K].
"""


def draw(
    logits: torch.Tensor, params: DrawParams, kinds: Kinds, rest: Rest | None = None
) -> torch.Tensor:
    """One token id per row.

    Args:
        logits: float32 [S, vocab], each row with a finite maximum; left unchanged.
        rest: None: `sort_short`, which reads from the device which rows need it.

    Returns:
        int64 [S].
    """
    # The maximum becomes 0, so that no temperature can overflow it.
    peak = logits.max(dim=-1, keepdim=True).values
    scores = (logits - peak).div_(params.temperature[:, None])
    if kinds.min_p:
        scores.masked_fill_(scores < torch.log(params.min_p)[:, None], -torch.inf)
    rest, some = rest or sort_short, kinds.truncated
    if len(some) == len(scores):
        return _draw_truncated(scores, params, rest)
    tokens = _inverse_cdf(scores.exp(), params.uniforms)
    if len(some):
        found = _draw_truncated(scores.index_select(0, some), params.rows(some), rest)
        tokens.index_copy_(0, some, found)
    return tokens


def _draw_truncated(scores: torch.Tensor, params: DrawParams, rest: Rest) -> torch.Tensor:
    """Rows with top-k or top-p: among their likeliest tokens where that is enough."""
    width = min(CANDIDATES, scores.shape[1])
    mass = scores.exp().sum(dim=-1, dtype=torch.float64)
    ids = torch.topk(scores, width, dim=-1).indices.sort(dim=-1).values
    ranked, ids = _ranked(scores, ids)
    kept = _kept(ranked, mass, params)
    tokens = _choose(ranked, ids, kept, params.uniforms)
    if width == scores.shape[1]:
        return tokens
    # While the lowest candidate and its equals are not wanted, neither is anything below them.
    short = ((ranked[:, -1:] == ranked) & kept).any(dim=-1)
    short |= (params.top_k > width) & (params.top_k < scores.shape[1])
    return rest(scores, mass, params, tokens, short)


def sort_short(
    scores: torch.Tensor,
    mass: torch.Tensor,
    params: DrawParams,
    tokens: torch.Tensor,
    short: torch.Tensor,
) -> torch.Tensor:
    """A `Rest` that sorts the rows that need it, and waits for the device to know them."""
    some = short.nonzero()[:, 0]
    if len(some):
        tokens[some] = _draw_sorted(scores[some], mass[some], params.rows(some))
    return tokens


def sort_all(
    scores: torch.Tensor,
    mass: torch.Tensor,
    params: DrawParams,
    tokens: torch.Tensor,
    short: torch.Tensor,
) -> torch.Tensor:
    """A `Rest` that sorts every row, so that nothing depends on what the device finds."""
    return torch.where(short, _draw_sorted(scores, mass, params), tokens)


def _draw_sorted(scores: torch.Tensor, mass: torch.Tensor, params: DrawParams) -> torch.Tensor:
    """Tokens by ranking the whole vocabulary."""
    every = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    ranked, ids = _ranked(scores, every)
    return _choose(ranked, ids, _kept(ranked, mass, params), params.uniforms)


def _ranked(scores: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of `ids` (ascending in each row), likeliest first, and those ids, likewise."""
    values, order = torch.sort(scores.gather(1, ids), dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _kept(ranked: torch.Tensor, mass: torch.Tensor, params: DrawParams) -> torch.Tensor:
    """Which of the ranked tokens [S, width] top-k and top-p keep.

    `mass` float64 [S] is the sum of exp(score) over the whole row.
    """
    width = ranked.shape[1]
    last = (params.top_k.clamp(max=width) - 1)[:, None]
    kept = (ranked >= ranked.gather(1, last)) & (ranked > -torch.inf)
    weights = torch.where(kept, ranked, -torch.inf).exp().double()
    has_top_k = params.top_k < width
    mass = torch.where(has_top_k, weights.sum(dim=-1), mass)
    before = weights.cumsum(dim=-1) - weights
    # top_p = 1 keeps all, however the sums were rounded.
    limit = torch.where(params.top_p < 1, params.top_p * mass, torch.inf)
    return kept & (before < limit[:, None])


def _choose(
    ranked: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, uniforms: torch.Tensor
) -> torch.Tensor:
    weights = torch.where(kept, ranked, -torch.inf).exp()
    return ids.gather(1, _inverse_cdf(weights, uniforms)[:, None])[:, 0]


def _inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first index [S] where the running sum of weights [S, width] reaches uniform * total.

    One of weight 0 is never the first: the uniform is above 0, and the sum does not grow there.
    """
    running = weights.cumsum(dim=-1, dtype=torch.float64)
    target = uniforms * running[:, -1]
    return torch.searchsorted(running, target[:, None])[:, 0]
