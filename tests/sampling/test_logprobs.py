import numpy as np
import pytest
import torch

from shoal.sampling import logprobs as module
from shoal.sampling.logprobs import best_logprobs, token_logprobs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [1, 100, 1 << 24])
def test_they_are_log_softmax_of_the_raw_logits(monkeypatch, dtype, limit):
    monkeypatch.setattr(module, "MAX_ELEMENTS", limit)
    logits = (3 * torch.randn(7, 40, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = torch.log_softmax(logits.float(), dim=-1)
    tokens = np.arange(7, dtype=np.int32) * 5
    nums = np.array([0, 1, 2, 3, 4, 20, 5])
    found = token_logprobs(logits, tokens, nums)
    for row, entry in enumerate(found):
        assert entry.token_id == tokens[row]
        assert entry.logprob == pytest.approx(expected[row, tokens[row]].item(), abs=1e-6)
        assert entry.rank == int((expected[row] >= expected[row, tokens[row]]).sum())
        best = expected[row].topk(int(nums[row])).values.tolist()
        assert [value for _, value in entry.top] == pytest.approx(best, abs=1e-6)
        for token, value in entry.top:
            assert value == pytest.approx(expected[row, token].item(), abs=1e-6)


def ranked(logits, token, num):
    return token_logprobs(logits, np.array([token], dtype=np.int32), np.array([num]))[0]


def test_equal_tokens_are_listed_lowest_first():
    entry = ranked(torch.zeros(1, 4), 3, 4)
    assert [token for token, _ in entry.top] == [0, 1, 2, 3]


def test_more_alternatives_than_tokens_lists_all():
    entry = ranked(torch.tensor([[0.0, 1.0]]), 0, 20)
    assert [token for token, _ in entry.top] == [1, 0]


def test_no_rows():
    assert token_logprobs(torch.zeros(0, 4), np.array([], dtype=np.int32), np.array([])) == []


@pytest.mark.parametrize("num", [1, 2, 5, 20])
def test_of_equals_the_lowest_ids_are_listed_however_many_are_asked_for(num: int) -> None:
    """bfloat16 has many equal logits; what a row is given must not depend on the rows beside it."""
    generator = torch.Generator().manual_seed(num)
    logits = torch.randn(40, 3000, generator=generator).to(torch.bfloat16)
    logits[0] = 0.0
    _, _, values, ids = best_logprobs(logits, torch.zeros(40, dtype=torch.int64), num)
    ranked = torch.sort(torch.log_softmax(logits.float(), -1), descending=True, stable=True)
    assert torch.equal(ids, ranked.indices[:, :num])
    assert torch.equal(values, ranked.values[:, :num])


@pytest.mark.parametrize("limit", [1, 100, 1 << 24])
def test_named_tokens_have_the_logprobs_of_log_softmax_whatever_their_rank(monkeypatch, limit):
    monkeypatch.setattr(module, "MAX_ELEMENTS", limit)
    logits = 3 * torch.randn(4, 40, generator=torch.Generator().manual_seed(1))
    expected = torch.log_softmax(logits, dim=-1)
    named = [(39, 0, 7), (), (5,), (2, 2)]
    nums = np.array([0, 2, 0, 0])
    found = token_logprobs(logits, np.arange(4, dtype=np.int32), nums, named)
    assert [tuple(token for token, _ in entry.named) for entry in found] == named
    assert [len(entry.top) for entry in found] == nums.tolist()
    for row, entry in enumerate(found):
        for token, value in entry.named:
            assert value == pytest.approx(expected[row, token].item(), abs=1e-6)
