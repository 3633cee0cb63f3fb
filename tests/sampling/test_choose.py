"""The C++ kernel against torch, and what a row's token may depend on."""

import numpy as np
import pytest
import torch

from shoal.kernels import Isa, available_isas, load_kernels
from shoal.sampling.choose import UNSOUND, Settings, choose
from shoal.sampling.rows import LogitRows

MOST = 2.0**-53


def settings_of(rows, vocab, seed=0):
    """Settings of every kind, one row after another, and uniforms of all sizes."""
    rng = np.random.default_rng(seed)
    uniforms = rng.random(rows).clip(MOST, 1 - MOST)
    return Settings(
        temperature=rng.choice([0, 0.3, 1, 1.7], rows).astype(np.float32),
        min_p=rng.choice([0, 0, 0.01], rows).astype(np.float32),
        top_k=rng.choice([vocab, 1, 5, vocab // 3], rows).clip(1, vocab).astype(np.int64),
        top_p=rng.choice([1, 0.2, 0.9, 0.999], rows).astype(np.float64),
        uniforms=uniforms,
    )


def logits_of(rows, vocab, spread=2.0, seed=0):
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def native(logits, settings, isa=None):
    return choose(LogitRows.whole(logits), settings, load_kernels(), isa)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.1, 2.0, 12.0])
@pytest.mark.parametrize("vocab", [1, 7, 16, 33, 1024, 5003])
def test_it_takes_the_tokens_torch_takes(vocab, spread, dtype):
    logits = logits_of(300, vocab, spread).to(dtype)
    settings = settings_of(300, vocab)
    expected = choose(LogitRows.whole(logits), settings, None)
    # A uniform number within rounding of a border between two tokens is rare: none here.
    assert native(logits, settings).tolist() == expected.tolist()


@pytest.mark.parametrize("vocab", [7, 40, 1100, 4099])
def test_every_instruction_set_and_dtype_and_company_gives_the_same(vocab):
    logits = logits_of(120, vocab).bfloat16()
    settings = settings_of(120, vocab)
    expected = native(logits, settings, Isa.avx2)
    for isa in available_isas():
        assert native(logits, settings, isa).tolist() == expected.tolist()
        assert native(logits.float(), settings, isa).tolist() == expected.tolist()
    index = np.random.default_rng(0).permutation(120)[:50]
    fewer = LogitRows.whole(logits).take(index)
    found = choose(fewer, settings.rows(index), load_kernels())
    assert found.tolist() == expected[index].tolist()
    alone = np.array([3])
    found = choose(LogitRows.whole(logits).take(alone), settings.rows(alone), load_kernels())
    assert found.tolist() == [expected[3]]


@pytest.mark.long
@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 7, 32, 33, 1024, 5003])
def test_only_what_is_allowed_comes(vocab, dtype, isa):
    logits = logits_of(200, vocab, 12.0).to(dtype)
    settings = settings_of(200, vocab)
    rng = np.random.default_rng(1)
    allowed = rng.integers(-(2**31), 2**31, (200, -(-vocab // 32)), dtype=np.int32)
    allowed[:, 0] |= 1
    bits = np.unpackbits(allowed.view(np.uint8), axis=1, count=vocab, bitorder="little")
    denied = torch.from_numpy(bits == 0)
    expected = choose(
        LogitRows.whole(logits.float().masked_fill(denied, -torch.inf)), settings, None
    )
    rows = LogitRows.whole(logits)
    before = logits.clone()
    for kernels in (load_kernels(), None):
        found = choose(rows, settings, kernels, isa, allowed)
        assert found.tolist() == expected.tolist()
    assert torch.equal(logits, before)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("wrong", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_are_no_numbers(dtype, wrong, isa):
    for place in (0, 15, 16, 34, 36):
        logits = logits_of(4, 37).to(dtype)
        logits[1, place] = wrong
        logits[2] = -torch.inf
        for temperature in (0, 1):
            settings = settings_of(4, 37)
            settings.temperature[:] = temperature
            tokens = native(logits, settings, isa)
            assert (tokens == UNSOUND).tolist() == [False, True, True, False]


@pytest.mark.parametrize("isa", available_isas())
def test_greedy_takes_the_lowest_of_equals(isa):
    logits = logits_of(3, 2100)
    logits[0, [70, 1030, 2099]] = 90.0
    logits[1, 2098:] = 90.0
    settings = settings_of(3, 2100)
    settings.temperature[:] = 0
    expected = [70, 2098, int(logits[2].argmax())]
    assert native(logits, settings, isa).tolist() == expected
    assert native(logits.bfloat16(), settings, isa).tolist()[:2] == expected[:2]


def test_rows_come_from_several_tensors():
    logits = logits_of(6, 50)
    rows = LogitRows((logits[:4], logits[4:5], logits[5:]), np.array([5, 0, 4, 4, 3]))
    expected = logits[[5, 0, 4, 4, 3]]
    assert torch.equal(rows.tensor(), expected)
    settings = settings_of(5, 50)
    whole = choose(LogitRows.whole(expected), settings, load_kernels())
    assert choose(rows, settings, load_kernels()).tolist() == whole.tolist()
    assert choose(rows, settings, None).tolist() == whole.tolist()
    middle = LogitRows.whole(logits).take(np.array([2, 3]))
    assert middle.tensor().data_ptr() == logits[2].data_ptr()


def test_wide_rows_stay_in_place():
    """Rows of a matrix with a stride of its own."""
    wide = logits_of(8, 64)
    settings = settings_of(8, 40)
    expected = native(wide[:, :40].contiguous(), settings)
    assert native(wide[:, :40], settings).tolist() == expected.tolist()
    assert native(wide.T.contiguous().T[:, :40], settings).tolist() == expected.tolist()
