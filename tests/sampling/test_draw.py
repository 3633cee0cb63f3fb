import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import shoal.sampling.draw as module
from shoal.kernels import available_isas, load_kernels
from shoal.sampling.choose import Settings, choose
from shoal.sampling.draw import CANDIDATES, DrawParams
from shoal.sampling.rows import LogitRows
from tests.helpers.combinations import together

PLACES = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *available_isas()]
"""Where to draw: in torch on a device, or in C++ by an instruction set."""


def kinds_of(warp, vocab):
    truncated = (warp.top_k < vocab) | (warp.top_p < 1)
    return module.Kinds(bool((warp.min_p > 0).any()), truncated.nonzero()[:, 0])


def draw(logits, warp, place="cpu"):
    """Tokens, int64 [S], by torch or by the kernels."""
    if isinstance(place, str):
        return module.draw(logits, warp, kinds_of(warp, logits.shape[1]))
    columns = warp.temperature, warp.min_p, warp.top_k, warp.top_p, warp.uniforms
    settings = Settings(*(np.ascontiguousarray(column) for column in columns))
    return torch.from_numpy(choose(LogitRows.whole(logits), settings, load_kernels(), place)).long()


def warp(uniforms, vocab, temperature=1.0, min_p=0.0, top_k=0, top_p=1.0, device="cpu"):
    def column(value, dtype):
        return torch.as_tensor(value, dtype=dtype, device=device).expand(len(uniforms)).clone()

    return DrawParams(
        temperature=column(temperature, torch.float32),
        min_p=column(min_p, torch.float32),
        top_k=column(top_k or vocab, torch.int64),
        top_p=column(top_p, torch.float64),
        uniforms=torch.as_tensor(uniforms, dtype=torch.float64, device=device),
    )


def transformers_probabilities(logits, temperature=1.0, min_p=0.0, top_k=0, top_p=1.0):
    scores = logits[None].float()
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return torch.softmax(scores.double(), dim=-1)[0].numpy()


def interval_counts(logits, draws, place="cpu", **settings):
    """How many of evenly spaced uniforms give each token: within 1 of draws * probability."""
    uniforms = (np.arange(draws) + 0.5) / draws
    device = place if isinstance(place, str) else "cpu"
    rows = logits.to(device).expand(draws, -1)
    tokens = draw(rows, warp(uniforms, len(logits), device=device, **settings), place).cpu().numpy()
    return np.bincount(tokens, minlength=len(logits))


SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 600},
    {"top_p": 0.9},
    {"top_p": 0.001},
    {"top_p": 0.999},
    {"top_k": 600, "top_p": 0.5},
    {"top_k": 600, "top_p": 0.999},
    {"temperature": 0.8, "min_p": 0.02, "top_k": 8, "top_p": 0.8},
    {"temperature": 1.5, "min_p": 0.001, "top_p": 0.95},
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "chosen", "place"),
    together([(20, 1.5), (700, 3.0), (700, 0.1), (5001, 2.0)], SETTINGS, PLACES, strength=2),
    ids=str,
)
def test_the_distribution_is_that_of_transformers(size, chosen, place):
    vocab, spread = size
    logits = spread * torch.randn(vocab, generator=torch.Generator().manual_seed(vocab))
    probabilities = transformers_probabilities(logits, **chosen)
    counts = interval_counts(logits, 1500, place, **chosen)
    assert np.abs(counts - 1500 * probabilities).max() <= 1 + 1e-3
    assert (probabilities[counts > 0] > 0).all()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_keeps_ties_as_transformers_does(top_k, place):
    logits = torch.tensor([1.0, 3.0, 3.0, 0.0, 2.0, 3.0])
    kept = transformers_probabilities(logits, top_k=top_k) > 0
    assert ((interval_counts(logits, 600, place, top_k=top_k) > 0) == kept).all()


@pytest.mark.parametrize("place", PLACES)
def test_top_p_keeps_the_token_that_crosses_and_the_lower_of_equals(place):
    logits = torch.log(torch.tensor([0.1, 0.5, 0.2, 0.2]))
    kept = interval_counts(logits, 1000, place, top_p=0.45) > 0
    assert kept.tolist() == [False, True, False, False]
    kept = interval_counts(logits, 1000, place, top_p=0.55) > 0
    assert kept.tolist() == [False, True, True, False]
    for size in (8, 2 * CANDIDATES):
        kept = interval_counts(torch.zeros(size), 1000, place, top_p=0.25) > 0
        assert kept.tolist() == [True] * (size // 4) + [False] * (size - size // 4)


COARSE = st.lists(st.integers(-6, 6), min_size=24, max_size=24)


@pytest.mark.long
@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            COARSE,
            st.sampled_from([0.3, 1.0, 1.7]),
            st.sampled_from([0.0, 0.05, 0.5]),
            st.integers(1, 24),
            st.sampled_from([0.05, 0.5, 0.93, 1.0]),
            st.floats(2**-52, 1 - 2**-53),
        ),
        min_size=1,
        max_size=6,
    ),
    width=st.integers(1, 24),
)
def test_neither_company_nor_the_number_of_candidates_matters(rows, width):
    logits = torch.tensor([row[0] for row in rows], dtype=torch.float32)
    temperature, min_p, top_k, top_p, uniforms = (
        list(column) for column in list(zip(*rows, strict=True))[1:]
    )
    together = warp(uniforms, 24, temperature, min_p, top_k, top_p)
    original = module.CANDIDATES
    try:
        module.CANDIDATES = 24
        expected = draw(logits, together)
        module.CANDIDATES = width
        assert torch.equal(draw(logits, together), expected)
        for place in PLACES:
            for row in range(len(rows)):
                index = torch.tensor([row])
                alone = draw(logits[index].to(torch.float32), together.rows(index), place)
                assert alone == expected[row]
    finally:
        module.CANDIDATES = original


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("uniform", [2**-53, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("chosen", [{}, {"top_p": 0.99}, {"top_k": 4}, {"min_p": 1e-6}])
def test_impossible_tokens_are_never_drawn(uniform, chosen, place):
    logits = torch.full((64,), -torch.inf)
    logits[20:23] = torch.tensor([1.0, 2.0, 0.5])
    assert 20 <= draw(logits[None], warp([uniform], 64, **chosen), place) <= 22


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("temperature", [1e-45, 1e-30, 1e-4])
def test_the_coldest_temperatures_take_the_likeliest(temperature, place):
    logits = torch.tensor([[1e4, 9.9e3, -1e4], [0.0, 1.0, 2.0]])
    assert draw(logits, warp([0.999, 0.001], 3, temperature=temperature), place).tolist() == [0, 2]
