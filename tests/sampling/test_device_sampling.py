"""Sampling without a look at the logits: the tokens, logprobs and errors of the host's way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal.sampling.logprobs as logprobs_module
from shoal.cuda.transfers import DirectStage
from shoal.errors import InternalError, InvalidLogitsError
from shoal.sampling.device_rows import TorchChooser
from shoal.sampling.device_sampling import DeviceSampler
from shoal.sampling.draw import CANDIDATES, sort_all, sort_short
from shoal.sampling.random import seeded_key
from shoal.sampling.rows import LogitRows
from shoal.sampling.sampler import Sampler
from shoal.types import RequestParams

PROMPT = np.array([1, 2, 2], dtype=np.int32)
PARAMS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.0, "logprob_token_ids": [12, 0, 7]},
    {"temperature": 1.0, "logprob_token_ids": [5]},
    {"temperature": 1.0},
    {"temperature": 0.7, "logprobs": 1},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "top_k": 5, "top_p": 0.5, "min_p": 0.05},
    {"temperature": 1.7, "min_p": 0.02},
    {"temperature": 0.0, "logit_bias": {"3": 9.0}},
    {"temperature": 1.0, "min_tokens": 9},
    {"temperature": 1.0, "repetition_penalty": 1.4, "top_p": 0.95},
    {"temperature": 0.0, "presence_penalty": 1.0, "logprobs": 2},
]


def batch_of(
    sequences: int, source: np.ndarray, rows: int, position: int = 0, retained: Any = ()
) -> Any:
    return SimpleNamespace(
        sample_sequences=np.arange(sequences, dtype=np.int32),
        sample_positions=np.full(sequences, position, dtype=np.int32),
        sample_logits=source,
        sample_retained=retained,
        logit_rows=np.zeros(rows, dtype=np.int64),
    )


def samplers(params: list[RequestParams], vocab: int) -> tuple[Sampler, Sampler]:
    both = Sampler(vocab, (1,)), Sampler(vocab, (1,))
    for sampler in both:
        for sequence, entry in enumerate(params):
            sampler.add(sequence, entry, seeded_key(sequence, PROMPT, 0), PROMPT)
    return both


def on_device(
    sampler: Sampler, vocab: int, batch: Any, logits: torch.Tensor, retained: Any, rest: Any
) -> tuple[np.ndarray, Any]:
    device = DeviceSampler(sampler, vocab, TorchChooser(rest))
    plan = device.plan(batch, DirectStage())
    before = logits.clone()
    tokens = device.choose(plan, logits, retained)
    parts = device.logprobs(plan, logits, tokens, retained)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
    found = tokens.numpy().astype(np.int32)
    return found, device.collect(plan, found, [part.numpy() for part in parts])


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_tokens_are_those_of_the_other_way(data: st.DataObject) -> None:
    vocab = data.draw(st.sampled_from([13, CANDIDATES, 700]))
    chosen = data.draw(st.lists(st.sampled_from(PARAMS), min_size=1, max_size=12))
    seed = data.draw(st.integers(0, 10**6))
    few = data.draw(st.booleans())
    rng = np.random.default_rng(seed)
    params = [RequestParams(**entry) for entry in chosen]
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    spread = data.draw(st.sampled_from([0.05, 1.0, 5.0]))
    generator = torch.Generator().manual_seed(seed)
    rows = int(rng.integers(0, len(params) + 3))
    logits = (spread * torch.randn(rows, vocab, generator=generator)).to(dtype)
    segments = rng.choice(40, 4, replace=False).tolist()
    retained = {s: (spread * torch.randn(vocab, generator=generator)).to(dtype) for s in segments}
    host, device = samplers(params, vocab)
    patched = logprobs_module.MAX_ELEMENTS
    try:
        if few:
            logprobs_module.MAX_ELEMENTS = 3 * vocab
        for position in range(3):
            kept = tuple(segments[: rng.integers(0 if rows else 1, 5)])
            source = rng.integers(0, rows + len(kept), len(params))
            parts = [logits] if rows else []
            parts += [retained[segment][None] for segment in kept]
            batch = batch_of(len(params), source, rows, position, kept)
            expected = host.sample(
                LogitRows(tuple(parts), source), batch.sample_sequences, batch.sample_positions
            )
            rest = data.draw(st.sampled_from([sort_all, sort_short]))
            found, logprobs = on_device(device, vocab, batch, logits, retained, rest)
            assert found.tolist() == expected.token_ids.tolist()
            assert [entry is None for entry in logprobs] == [e is None for e in expected.logprobs]
            for entry, other in zip(logprobs, expected.logprobs, strict=True):
                if entry is not None and other is not None:
                    assert (entry.token_id, entry.rank) == (other.token_id, other.rank)
                    assert entry.logprob == pytest.approx(other.logprob, abs=1e-6)
                    assert [t for t, _ in entry.top] == [t for t, _ in other.top]
                    assert [t for t, _ in entry.named] == [t for t, _ in other.named]
                    values = [value for _, value in other.named]
                    assert [v for _, v in entry.named] == pytest.approx(values, abs=1e-6)
    finally:
        logprobs_module.MAX_ELEMENTS = patched


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 599])
def test_rows_that_are_no_numbers_are_named_at_the_end(wrong: float, place: int) -> None:
    params = [RequestParams(**entry) for entry in PARAMS]
    vocab, count = 600, len(PARAMS)
    logits = torch.randn(count, vocab, generator=torch.Generator().manual_seed(1))
    bad = [0, 2, 6, 7, 12]
    logits[bad, place] = wrong
    if wrong == -torch.inf:
        logits[bad] = wrong
    _, sampler = samplers(params, vocab)
    batch = batch_of(count, np.arange(count), count)
    device = DeviceSampler(sampler, vocab, TorchChooser())
    plan = device.plan(batch, DirectStage())
    tokens = device.choose(plan, logits, {})
    assert np.flatnonzero(tokens.numpy() < 0).tolist() == bad
    parts = device.logprobs(plan, logits, tokens, {})
    with pytest.raises(InvalidLogitsError) as caught:
        device.collect(plan, tokens.numpy().astype(np.int32), [part.numpy() for part in parts])
    assert caught.value.sequences == tuple(bad)
    # Nothing was recorded: the same position can be sampled again.
    logits[bad] = 0.0
    tokens = device.choose(plan, logits, {})
    parts = device.logprobs(plan, logits, tokens, {})
    device.collect(plan, tokens.numpy().astype(np.int32), [part.numpy() for part in parts])


def test_logits_of_another_vocabulary_are_refused() -> None:
    _, sampler = samplers([RequestParams()], 12)
    device = DeviceSampler(sampler, 12, TorchChooser())
    plan = device.plan(batch_of(1, np.zeros(1, dtype=np.int64), 1), DirectStage())
    with pytest.raises(InternalError, match="vocabulary of 12"):
        device.choose(plan, torch.zeros(1, 13), {})
