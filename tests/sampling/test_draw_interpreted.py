"""The kernel that draws from whole rows, against sorting them; see tests/helpers/interpreter.py."""

from __future__ import annotations

import pytest
import torch

from shoal.sampling.draw import CANDIDATES, DrawParams, draw, sort_all
from shoal.sampling.draw_kernel import draw_rest
from tests.sampling.test_draw import kinds_of, warp


def scores_of(rows: int, vocab: int, spread: float, seed: int, ties: bool) -> torch.Tensor:
    logits = spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))
    if ties:
        logits = logits.bfloat16().float()
    return logits - logits.max(dim=-1, keepdim=True).values


CASES = [
    ({"top_p": 0.999}, 0.05, False),
    ({"top_p": 0.5}, 0.5, True),
    ({"top_k": 600}, 3.0, False),
    ({"top_k": 300, "top_p": 0.9}, 0.5, True),
    ({"top_k": 650, "top_p": 0.999}, 0.05, False),
    ({"top_p": 0.6}, 0.0, True),
    ({"top_p": 1e-9}, 1.0, False),
]


@pytest.mark.parametrize(("chosen", "spread", "ties"), CASES, ids=str)
def test_it_draws_what_sorting_draws(chosen: dict[str, float], spread: float, ties: bool) -> None:
    vocab, rows = 700, 4
    scores = scores_of(rows, vocab, spread, 1, ties)
    uniforms = torch.linspace(0.001, 0.9999, rows, dtype=torch.float64)
    how = warp(uniforms, vocab, **chosen)
    mass = scores.exp().sum(dim=-1, dtype=torch.float64)
    short = torch.tensor([True, True, False, True])
    before = torch.full((rows,), -5)
    expected = sort_all(scores, mass, how, before, short)
    found = draw_rest(scores, mass, how, before.clone(), short, block=256)
    assert found.tolist() == expected.tolist()
    assert found[2] == -5


def test_impossible_tokens_and_tokens_of_no_weight() -> None:
    """Fewer possible tokens than top-k asks for, and scores whose exp is 0."""
    vocab = 600
    scores = torch.full((4, vocab), -torch.inf)
    scores[:, 580:] = torch.linspace(-2.0, 0.0, 20)
    scores[1, :300] = -200.0
    scores[2, :300] = -90.0
    how = warp([0.9999, 0.9999, 0.5, 1e-12], vocab, top_k=550, top_p=0.9999)
    mass = scores.exp().sum(dim=-1, dtype=torch.float64)
    everyone = torch.ones(4, dtype=torch.bool)
    none = torch.zeros(4, dtype=torch.int64)
    expected = sort_all(scores, mass, how, none, everyone)
    assert draw_rest(scores, mass, how, none.clone(), everyone, block=128).tolist() == (
        expected.tolist()
    )


def test_a_uniform_at_every_token_gives_it() -> None:
    """Between the borders of the running sum over ranked tokens, and only there."""
    vocab = 20
    scores = scores_of(1, vocab, 1.0, 3, ties=True).expand(vocab, -1).contiguous()
    ranked, order = scores[0].sort(descending=True, stable=True)
    running = ranked.exp().cumsum(0, dtype=torch.float64)
    uniforms = (running - ranked.exp() / 2) / running[-1]
    how = warp(uniforms, vocab)
    mass = running[-1:].expand(vocab).contiguous()
    short = torch.ones(vocab, dtype=torch.bool)
    found = draw_rest(scores, mass, how, torch.zeros(vocab, dtype=torch.int64), short, block=16)
    assert found.tolist() == order.tolist()


def test_in_its_place_within_a_draw() -> None:
    """Rows that need it and rows that do not, through the whole of `draw`."""
    vocab, rows = CANDIDATES + 88, 12
    logits = scores_of(rows, vocab, 1.0, 5, ties=False)
    logits[::3] *= 0.01
    uniforms = torch.linspace(0.01, 0.99, rows, dtype=torch.float64)
    how = warp(uniforms, vocab, temperature=0.9, top_p=0.95)
    kinds = kinds_of(how, vocab)
    expected = draw(logits, how, kinds, sort_all)
    calls: list[int] = []

    def counted(
        scores: torch.Tensor,
        mass: torch.Tensor,
        how: DrawParams,
        tokens: torch.Tensor,
        short: torch.Tensor,
    ) -> torch.Tensor:
        calls.append(int(short.sum()))
        return draw_rest(scores, mass, how, tokens, short, block=256)

    assert draw(logits, how, kinds, counted).tolist() == expected.tolist()
    assert 0 < calls[0] < rows
