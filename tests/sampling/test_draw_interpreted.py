"""The kernels that choose tokens on a GPU, against torch; see tests/helpers/interpreter.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from shoal.cuda.transfers import DirectStage
from shoal.sampling.choose import UNSOUND
from shoal.sampling.device_sampling import DeviceSampler
from shoal.sampling.draw import DrawParams
from shoal.sampling.rows import LogitRows
from shoal.sampling.triton_chooser import TritonChooser
from shoal.types import RequestParams
from tests.helpers.choices import check, chosen_by, group_of
from tests.sampling.test_device_sampling import PARAMS, batch_of, samplers
from tests.sampling.test_draw import warp

# Infinities are meant: the interpreter computes with NumPy, which warns of them.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
CHOOSER = TritonChooser(plain_block=256, ranked_block=256)
SHORT = replace(CHOOSER, room=32, candidates=512)
"""With room for so few candidates that most rows are worked on whole."""
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FIRST, LAST = 2.0**-53, 1 - 2.0**-53
"""The least and the greatest uniform number."""


def normal(rows: int, vocab: int, spread: float, seed: int = 0) -> torch.Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def strange_logits(vocab: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows with ties, without spread, with impossible tokens, and four without numbers, last."""
    logits = normal(11, vocab, 2.0)
    logits[0, vocab // 2 :] = logits[0, : vocab - vocab // 2].clone()
    logits[1] = 0.25
    logits[2, 1:] = -torch.inf
    logits[3, :-1] = -torch.inf
    logits[4, ::2] = -torch.inf
    logits[5] = logits[5].round()
    logits[6] += 1000.0
    logits[7] = -torch.inf
    logits[8, vocab - 1] = torch.nan
    logits[9, 0] = torch.inf
    logits[10, :] = torch.nan
    return logits.to(dtype)


def params_of(rows: int, vocab: int, seed: int) -> DrawParams:
    """Of every kind, without top-k and top-p."""
    rng = np.random.default_rng(seed)
    uniforms = np.where(rng.random(rows) < 0.2, rng.choice([FIRST, LAST], rows), rng.random(rows))
    return warp(
        uniforms,
        vocab,
        temperature=rng.choice([0.0, 1e-39, 1e-3, 0.7, 1.0, 2.0, 1e30], rows),
        min_p=rng.choice([0.0, 0.0, 0.02, 1.0], rows),
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("vocab", [1, 13, 256, 700, 1100])
def test_plain_rows(vocab: int, dtype: torch.dtype) -> None:
    logits = strange_logits(vocab, dtype)
    rows = torch.arange(len(logits)).repeat(4)
    check(CHOOSER, logits, group_of(rows, params_of(len(rows), vocab, vocab), ranked=False))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("vocab", "chooser"), [(13, CHOOSER), (700, CHOOSER), (700, SHORT)])
def test_ranked_rows(vocab: int, chooser: TritonChooser, dtype: torch.dtype) -> None:
    logits = strange_logits(vocab, dtype)
    rows = torch.arange(len(logits)).repeat(2)
    params = params_of(len(rows), vocab, vocab)
    rng = np.random.default_rng(vocab)
    params = replace(
        params,
        temperature=params.temperature.clamp(min=1e-39),
        top_k=torch.from_numpy(rng.choice([1, 5, vocab // 2 + 1, vocab], len(rows))),
        top_p=torch.from_numpy(rng.choice([1e-9, 0.3, 0.9, 0.9999, 1.0], len(rows))),
    )
    params.top_p[params.top_k == vocab] = 0.95
    few = replace(chooser, programs=5)
    check(few, logits, group_of(rows, params, ranked=True))


def test_rows_that_are_no_numbers_are_named() -> None:
    logits = strange_logits(300, torch.bfloat16)
    for ranked in (False, True):
        params = warp(np.full(len(logits), 0.5), 300, top_p=0.9 if ranked else 1.0)
        group = group_of(torch.arange(len(logits)), params, ranked)
        unsound = chosen_by(CHOOSER, logits, group) == UNSOUND
        assert unsound.nonzero()[:, 0].tolist() == [7, 8, 9, 10]


CASES = [
    ({"top_p": 0.999}, 0.05, False),
    ({"top_p": 0.5}, 0.5, True),
    ({"top_k": 600}, 3.0, False),
    ({"top_k": 100}, 3.0, False),
    ({"top_k": 300, "top_p": 0.9}, 0.5, True),
    ({"top_k": 40, "top_p": 0.9, "min_p": 0.03}, 1.0, True),
    ({"top_p": 0.7, "min_p": 0.03}, 2.0, False),
    ({"top_p": 0.6}, 0.0, True),
    ({"top_p": 1e-9}, 1.0, False),
]


@pytest.mark.parametrize("chooser", [CHOOSER, SHORT], ids=["listed", "whole"])
@pytest.mark.parametrize(("chosen", "spread", "ties"), CASES, ids=str)
def test_every_way_to_truncate(
    chosen: dict[str, float], spread: float, ties: bool, chooser: TritonChooser
) -> None:
    vocab, rows = 700, 5
    logits = normal(rows, vocab, spread)
    logits = logits.bfloat16() if ties else logits
    params = warp(np.linspace(0.001, 0.9999, rows), vocab, temperature=0.8, **chosen)
    check(chooser, logits, group_of(torch.arange(rows), params, ranked=True))


def test_impossible_tokens_and_tokens_of_no_weight() -> None:
    """Fewer possible tokens than top-k asks for, and scores whose exp is 0."""
    vocab = 600
    logits = torch.full((4, vocab), -torch.inf)
    logits[:, 580:] = torch.linspace(-2.0, 0.0, 20)
    logits[1, :300] = -200.0
    logits[2, :300] = -90.0
    params = warp([0.9999, 0.9999, 0.5, 1e-12], vocab, top_k=550, top_p=0.9999)
    for chooser in (CHOOSER, SHORT):
        check(chooser, logits, group_of(torch.arange(4), params, ranked=True))


@pytest.mark.parametrize("ranked", [False, True])
def test_a_uniform_at_every_token_gives_it(ranked: bool) -> None:
    """Between the borders of the running sum, by ids or ranks, and only there. The list is full."""
    vocab = 20
    logits = normal(1, vocab, 1.0, 3).bfloat16()
    order = logits[0].float().sort(descending=True, stable=True).indices
    order = order if ranked else torch.arange(vocab)
    weights = logits[0].double().exp()[order]
    uniforms = (weights.cumsum(0) - weights / 2) / weights.sum()
    params = warp(uniforms, vocab, top_p=1 - 1e-9 if ranked else 1.0)
    chooser = TritonChooser(plain_block=8, ranked_block=8, candidates=16, room=vocab)
    group = group_of(torch.zeros(vocab, dtype=torch.int64), params, ranked)
    assert chosen_by(chooser, logits, group).tolist() == order.tolist()


def test_in_their_place_within_a_batch() -> None:
    """Every feature, rows kept earlier among them, as the host samples."""
    vocab, rows, segments = 700, 8, (3, 9)
    params = [RequestParams(**entry) for entry in PARAMS] * 2
    logits = normal(rows + 1, vocab, 2.0).bfloat16()[:rows]
    retained = {segment: normal(1, vocab, 1.0, segment)[0].bfloat16() for segment in segments}
    host, device = samplers(params, vocab)
    sampler = DeviceSampler(device, vocab, CHOOSER)
    parts = (logits, *(retained[segment][None] for segment in segments))
    for position in range(2):
        source = np.random.default_rng(position).integers(0, rows + len(segments), len(params))
        batch = batch_of(len(params), source, rows, position, segments)
        expected = host.sample(
            LogitRows(parts, source), batch.sample_sequences, batch.sample_positions
        )
        plan = sampler.plan(batch, DirectStage())
        tokens = sampler.choose(plan, logits, retained)
        assert tokens.tolist() == expected.token_ids.tolist()
        found = sampler.logprobs(plan, logits, tokens, retained)
        sampler.collect(plan, expected.token_ids, [part.numpy() for part in found])
