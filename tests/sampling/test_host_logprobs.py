"""Logprobs in C++: those of log-softmax in float64, for every instruction set and row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shoal.kernels import Isa, available_isas, load_kernels
from shoal.sampling.host_logprobs import RowLogprobs, knows, row_logprobs
from shoal.sampling.logprobs import some_logprobs, token_logprobs
from shoal.sampling.rows import LogitRows

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="the C++ kernels are not built")
ISAS = [isa for isa in (Isa.avx2, Isa.avx512) if isa in available_isas()]


def described(
    logits: torch.Tensor, targets: list[list[int]], nums: list[int], isa: Isa | None = None
) -> RowLogprobs:
    offsets = np.cumsum([0, *map(len, targets)])
    flat = np.concatenate([np.zeros(0), *targets]).astype(np.int32)
    kernels = load_kernels()
    assert kernels is not None
    return row_logprobs(LogitRows.whole(logits), offsets, flat, np.array(nums), kernels, isa)


def order(logits: torch.Tensor) -> list[int]:
    """Tokens of a row, the likeliest first, of equals the lowest id."""
    return sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))


@pytest.mark.long
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 17, 1000, 1024, 5003])
def test_they_are_those_of_log_softmax(isa: Isa, dtype: torch.dtype, vocab: int) -> None:
    """bfloat16 has equals; rows have no target, a few and many, and list none, some and all."""
    rng = np.random.default_rng(vocab)
    logits = 4 * torch.randn(12, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[:, :: max(2, vocab // 3)] = -torch.inf
    logits[:, vocab // 2] = 1.0
    logits = logits.to(dtype)
    targets = [rng.integers(0, vocab, size).tolist() for size in (0, 1, 2, 8, 9, 30) * 2]
    nums = [min(n, vocab) for n in (0, 1, 5, 20, 400, vocab, 0, 0, 2, 1, 0, vocab)]
    found = described(logits, targets, nums, isa)
    oracle = torch.log_softmax(logits.double(), -1).float().numpy()
    at = 0
    for row, (tokens, num) in enumerate(zip(targets, nums, strict=True)):
        for token in tokens:
            assert found.logprob[at] == pytest.approx(oracle[row, token], abs=2e-6)
            assert found.rank[at] == int((logits[row] >= logits[row, token]).sum())
            at += 1
        best = order(logits[row])[:num]
        assert found.top_ids[row, :num].tolist() == best
        np.testing.assert_allclose(found.top_logprobs[row, :num], oracle[row, best], atol=2e-6)
    np.testing.assert_allclose(
        found.normalizer, torch.logsumexp(logits.double(), -1).numpy(), atol=1e-6
    )
    assert at == len(found.logprob)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_row_that_is_no_number_says_so_and_the_others_do_not_mind(wrong: float) -> None:
    logits = torch.randn(3, 50)
    logits[1, 49] = wrong
    found = described(logits, [[1], [2, 49], [3]], [2, 2, 2])
    assert np.isnan(found.logprob).tolist() == [False, True, True, False]
    nowhere = described(torch.full((1, 50), -torch.inf), [[3]], [1])
    assert np.isnan(nowhere.logprob).all()


def test_what_is_reported_of_tokens_is_what_torch_reports() -> None:
    """Rows of two tensors, some of them, with tokens that are named."""
    parts = torch.randn(4, 300), torch.randn(2, 300)
    rows = LogitRows(parts, np.array([5, 0, 4, 2, 2]))
    asked, tokens = np.array([0, 2, 4]), np.arange(5, dtype=np.int32) * 7
    nums, named = np.array([3, 0, 1, 0, 20]), [(1, 250), (), (7,)]
    found = some_logprobs(rows, asked, tokens, nums, named, load_kernels())
    expected = token_logprobs(rows.take(asked).tensor(), tokens[asked], nums[asked], named)
    assert [each is None for each in found] == [False, True, False, True, False]
    for each, other in zip([found[0], found[2], found[4]], expected, strict=True):
        assert each is not None
        assert (each.token_id, each.rank) == (other.token_id, other.rank)
        assert each.logprob == pytest.approx(other.logprob, abs=1e-6)
        for pairs, others in ((each.top, other.top), (each.named, other.named)):
            assert [token for token, _ in pairs] == [token for token, _ in others]
            assert [v for _, v in pairs] == pytest.approx([v for _, v in others], abs=1e-6)


def test_other_formats_are_torchs() -> None:
    kernels: Any = load_kernels()
    assert knows(kernels, torch.zeros(1, 2))
    assert not knows(kernels, torch.zeros(1, 2, dtype=torch.float16))
    assert not knows(None, torch.zeros(1, 2))
    assert not knows(kernels, torch.zeros(1, 2, device="meta"))
