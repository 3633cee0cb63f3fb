"""Rows to choose tokens from, and whether what a kernel chose is right."""

from __future__ import annotations

import torch

from shoal.sampling.choose import UNSOUND
from shoal.sampling.device_rows import TorchChooser
from shoal.sampling.draw import DrawParams
from shoal.sampling.row_group import Chooser, RowGroup

NEAR = 2e-6
"""Share of a row's mass within which roundings may move a border between tokens."""
UNTOUCHED = -9


def group_of(rows: torch.Tensor, params: DrawParams, ranked: bool) -> RowGroup:
    """Samples in mixed order for these rows, with gaps between them."""
    generator = torch.Generator().manual_seed(len(rows))
    samples = 2 * torch.randperm(len(rows), generator=generator).to(rows.device)
    drawn = params.temperature > 0
    min_p = bool((drawn & (params.min_p > 0)).any())
    return RowGroup(samples, rows, params, bool(drawn.any()), min_p, ranked)


def chosen_by(chooser: Chooser, logits: torch.Tensor, group: RowGroup) -> torch.Tensor:
    """The group's tokens, int64 [n]; that nothing else was written to is checked."""
    tokens = torch.full((2 * len(group.rows),), UNTOUCHED, device=logits.device)
    before = logits.clone()
    chooser(logits, group, tokens)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    assert (tokens[1::2] == UNTOUCHED).all()
    return tokens[group.samples]


def check(chooser: Chooser, logits: torch.Tensor, group: RowGroup, most_near: int = 0) -> None:
    """Tokens are those that torch chooses, but for at most `most_near` rows. In those the uniform
    number, or the edge of top-p, is so near to a border of the token that roundings decide."""
    found = chosen_by(chooser, logits, group)
    expected = chosen_by(TorchChooser(), logits, group)
    different = (found != expected).nonzero()[:, 0].tolist()
    assert len(different) <= most_near, different
    for row in different:
        params = group.params.rows(torch.tensor([row], device=found.device))
        logit_row = logits[int(group.rows[row])]
        assert could_be(int(found[row]), logit_row, params, group.ranked), (row, int(found[row]))


def could_be(token: int, logits: torch.Tensor, params: DrawParams, ranked: bool) -> bool:
    """Whether a draw from one row may give a token, by its definition in float64."""
    if not float(params.temperature) or token == UNSOUND:
        return False
    logits = logits.float()
    scores = (logits - logits.max()) / params.temperature
    weights = torch.where(scores < torch.log(params.min_p), 0.0, scores.double().exp())
    order = torch.arange(len(logits), device=logits.device)
    if ranked:
        order = scores.sort(descending=True, stable=True).indices
        k = int(params.top_k)
        if k < len(logits):
            weights = torch.where(scores < scores[order[k - 1]], 0.0, weights)
    weights = weights[order]
    before = weights.cumsum(0) - weights
    place = int((order == token).nonzero()[0, 0])
    share, mass = float(params.top_p), float(weights.sum())
    narrow, wide = (
        float(weights[before < (share + by) * mass].sum()) if share < 1 else mass
        for by in (-NEAR, NEAR)
    )
    low, weight, uniform = float(before[place]), float(weights[place]), float(params.uniforms)
    inside = low / wide - NEAR <= uniform <= (low + weight) / narrow + NEAR
    return inside and weight > 0 and low <= wide
