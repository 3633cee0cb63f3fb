import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from shoal.sampling.processors import Bias, Mask, Pairs, Penalty, penalties

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def ids(*tokens):
    return np.array(tokens, dtype=np.int64)


def floats(*values):
    return np.array(values, dtype=np.float32)


def add_bias(logits, pairs, bias):
    Bias(*(torch.from_numpy(c).to(logits.device) for c in (pairs.flat, bias))).apply(logits)


def mask(logits, pairs):
    Mask(torch.from_numpy(pairs.flat).to(logits.device)).apply(logits)


def penalise(logits, pairs, counts, *rates):
    columns = pairs.flat, *penalties(pairs, counts, *rates)
    Penalty(*(torch.from_numpy(c).to(logits.device) for c in columns)).apply(logits)


@pytest.fixture(params=DEVICES)
def logits(request):
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(3, 10, generator=generator)).to(request.param)


def test_bias_touches_its_own_rows_and_adds_up(logits):
    before = logits.clone()
    add_bias(logits, Pairs.gather(ids(0, 2), [ids(4), ids(1, 1)], 10), floats(5, 2, 3))
    difference = torch.zeros(3, 10)
    difference[0, 4] = difference[2, 1] = 5
    torch.testing.assert_close((logits - before).cpu(), difference)


def test_mask_makes_tokens_impossible(logits):
    before = logits.clone()
    mask(logits, Pairs.gather(ids(1), [ids(0, 9)], 10))
    assert logits[1, [0, 9]].tolist() == [-torch.inf, -torch.inf]
    before[1, [0, 9]] = -torch.inf
    assert torch.equal(logits, before)


def test_no_pairs_change_nothing(logits):
    before = logits.clone()
    mask(logits, Pairs.gather(ids(1), [ids()], 10))
    assert torch.equal(logits, before)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.sampled_from([0.4, 1.3, 2.0]))
def test_repetition_penalty_is_that_of_transformers(history, penalty):
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(1))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([history]), logits.clone())
    seen = np.unique(history)
    zero = floats(0)
    pairs = Pairs.gather(ids(0), [seen], 10)
    penalise(logits, pairs, np.zeros(len(seen), np.float32), floats(penalty), zero, zero)
    torch.testing.assert_close(logits, theirs)


def test_frequency_counts_and_presence_does_not(logits):
    before = logits.clone()
    pairs = Pairs.gather(ids(0, 1), [ids(2, 3), ids(2)], 10)
    counts = floats(3, 0, 1)
    penalise(logits, pairs, counts, floats(1, 1, 1), floats(0.5, 0, 0), floats(0.25, 2, 0))
    difference = torch.zeros(3, 10)
    difference[0, 2] = -(3 * 0.5 + 0.25)
    difference[1, 2] = -2.0
    torch.testing.assert_close((logits - before).cpu(), difference)
