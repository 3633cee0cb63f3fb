"""Drawing tokens: temperature, min-p, top-k, top-p, then one uniform through the inverse CDF.

The truncations are those of transformers' warpers: min-p keeps tokens at least `min_p` times as
likely as the likeliest; top-k keeps the k likeliest and whatever ties with the k-th; top-p keeps
the fewest likeliest tokens whose mass, within what the others left, reaches `top_p`. Among equal
logits the lower token id counts as likelier.

A row's result depends on that row alone, never on the rows beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

CANDIDATES = 512
"""Likeliest tokens looked at first; a row that needs more is sorted whole."""


@dataclass(frozen=True)
class Warp:
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

    def rows(self, index: torch.Tensor) -> Warp:
        """The rows at `index`."""
        return Warp(
            self.temperature[index],
            self.min_p[index],
            self.top_k[index],
            self.top_p[index],
            self.uniforms[index],
        )


def draw(logits: torch.Tensor, warp: Warp) -> torch.Tensor:
    """One token id per row.

    Args:
        logits: float32 [S, vocab], each row with a finite maximum; left unchanged.

    Returns:
        int64 [S].
    """
    # The maximum becomes 0, so that no temperature can overflow it.
    peak = logits.max(dim=-1, keepdim=True).values
    scores = (logits - peak).div_(warp.temperature[:, None])
    if (warp.min_p > 0).any():
        scores.masked_fill_(scores < torch.log(warp.min_p)[:, None], -torch.inf)
    truncated = (warp.top_k < logits.shape[1]) | (warp.top_p < 1)
    if truncated.all():
        return _draw_truncated(scores, warp)
    tokens = _inverse_cdf(scores.exp(), warp.uniforms)
    some = truncated.nonzero()[:, 0]
    if len(some):
        tokens[some] = _draw_truncated(scores[some], warp.rows(some))
    return tokens


def _draw_truncated(scores: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Rows with top-k or top-p: among their likeliest tokens where that is enough."""
    width = min(CANDIDATES, scores.shape[1])
    mass = scores.exp().sum(dim=-1, dtype=torch.float64)
    ids = torch.topk(scores, width, dim=-1).indices.sort(dim=-1).values
    ranked, ids = _ranked(scores, ids)
    kept = _kept(ranked, mass, warp)
    tokens = _choose(ranked, ids, kept, warp.uniforms)
    # While the lowest candidate and its equals are not wanted, neither is anything below them.
    short = ((ranked[:, -1:] == ranked) & kept).any(dim=-1)
    short |= (warp.top_k > width) & (warp.top_k < scores.shape[1])
    short = short.nonzero()[:, 0]
    if width < scores.shape[1] and len(short):
        every = torch.arange(scores.shape[1], device=scores.device).expand(len(short), -1)
        ranked, ids = _ranked(scores[short], every)
        rest = warp.rows(short)
        kept = _kept(ranked, mass[short], rest)
        tokens[short] = _choose(ranked, ids, kept, rest.uniforms)
    return tokens


def _ranked(scores: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of `ids` (ascending in each row), likeliest first, and those ids, likewise."""
    values, order = torch.sort(scores.gather(1, ids), dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _kept(ranked: torch.Tensor, mass: torch.Tensor, warp: Warp) -> torch.Tensor:
    """Which of the ranked tokens [S, width] top-k and top-p keep.

    `mass` float64 [S] is the sum of exp(score) over the whole row.
    """
    width = ranked.shape[1]
    last = (warp.top_k.clamp(max=width) - 1)[:, None]
    kept = (ranked >= ranked.gather(1, last)) & (ranked > -torch.inf)
    weights = torch.where(kept, ranked, -torch.inf).exp().double()
    has_top_k = warp.top_k < width
    mass = torch.where(has_top_k, weights.sum(dim=-1), mass)
    before = weights.cumsum(dim=-1) - weights
    # top_p = 1 keeps all, however the sums were rounded.
    limit = torch.where(warp.top_p < 1, warp.top_p * mass, torch.inf)
    return kept & (before < limit[:, None])


def _choose(
    ranked: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, uniforms: torch.Tensor
) -> torch.Tensor:
    weights = torch.where(kept, ranked, -torch.inf).exp()
    return ids.gather(1, _inverse_cdf(weights, uniforms)[:, None])[:, 0]


def _inverse_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first place [S] where the running sum of weights [S, width] reaches uniform * total.

    A place of weight 0 is never the first: the uniform is above 0, and the sum does not grow there.
    """
    running = weights.cumsum(dim=-1, dtype=torch.float64)
    target = uniforms * running[:, -1]
    return torch.searchsorted(running, target[:, None])[:, 0]
