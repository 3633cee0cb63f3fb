"""A replayed forward gives the eager one's logits and KV, whatever batch comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.cuda.graphs import tiers
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.cuda_models import Inputs, random_inputs
from tests.helpers.cuda_twins import BLOCKS, SIZES, Twins, parts
from tests.helpers.models import VOCABULARY


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, SIZES[-1]), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_any_batches_in_any_order(rows: list[int], seed: int) -> None:
    rng, twins = np.random.default_rng(seed), Twins(seed)
    for number in rows:
        twins.compare(random_inputs(rng, number, BLOCKS))
    used = {min(size for size in SIZES if size >= number) for number in rows}
    assert twins.graphs.captured == tuple(sorted(used))
    assert twins.recorder.records == len(used)


def test_a_bucket_is_captured_once_and_replayed_after() -> None:
    rng, twins = np.random.default_rng(1), Twins()
    for number in (7, 8, 5, 7):
        twins.compare(random_inputs(rng, number, BLOCKS))
    assert twins.recorder.records == 1
    assert twins.graphs.captured == (8,)


def test_padding_writes_to_scratch_alone() -> None:
    """After a batch that fills its bucket, a smaller one must not write where that one did."""
    rng, twins = np.random.default_rng(2), Twins()
    twins.compare(random_inputs(rng, 24, BLOCKS))
    for part in parts(twins.replayed):
        part.zero_()
    inputs = random_inputs(rng, 17, BLOCKS)
    twins.run(inputs)
    written = torch.zeros((BLOCKS + twins.scratch) * BLOCK_SIZE, dtype=torch.bool)
    for part in parts(twins.replayed):
        written |= (part != 0).any(-1).any(0)
    found = written.nonzero()[:, 0]
    owned = found[found < BLOCKS * BLOCK_SIZE]
    assert owned.tolist() == sorted(inputs.slots.tolist())
    assert len(found) - len(owned) == 24 - 17


def test_logits_are_those_of_the_rows_asked_for_and_no_more() -> None:
    rng, twins = np.random.default_rng(3), Twins()
    for wanted in ([], [3], [6, 0, 6, 2], list(range(7))):
        inputs = random_inputs(rng, 7, BLOCKS)
        inputs = Inputs(
            inputs.token_ids,
            inputs.positions,
            inputs.slots,
            inputs.work,
            torch.tensor(wanted).long(),
        )
        twins.compare(inputs)
        found = twins.run(inputs)
        assert found is not None
        assert found.shape == (len(wanted), VOCABULARY)


def test_what_does_not_fit_is_left_to_the_eager_forward() -> None:
    rng, twins = np.random.default_rng(4), Twins()
    assert twins.run(random_inputs(rng, 25, BLOCKS)) is None
    inputs = random_inputs(rng, 3, BLOCKS)
    many = Inputs(
        inputs.token_ids,
        inputs.positions,
        inputs.slots,
        inputs.work,
        torch.zeros(5, dtype=torch.int64),
    )
    assert twins.run(many) is None
    for fixed in twins.made:
        fixed.rows = 0  # as if the work list were too long
    before = [part.clone() for part in parts(twins.replayed)]
    assert twins.run(inputs) is None
    assert all(torch.equal(a, b) for a, b in zip(before, parts(twins.replayed), strict=True))
    assert twins.graphs.captured == ()


def test_each_bucket_uses_the_least_attention_buffers_that_hold_it() -> None:
    rng, twins = np.random.default_rng(5), Twins()
    assert [fixed.rows for fixed in twins.made] == list(tiers(SIZES)) == [24, 2]
    twins.compare(random_inputs(rng, 2, BLOCKS))
    assert [fixed.work is not None for fixed in twins.made] == [False, True]
    twins.compare(random_inputs(rng, 3, BLOCKS))
    assert [fixed.work is not None for fixed in twins.made] == [True, True]


def test_a_bucket_that_cannot_be_captured_runs_eagerly_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng, twins = np.random.default_rng(6), Twins(fail_from=1)
    twins.compare(random_inputs(rng, 8, BLOCKS))
    refused = random_inputs(rng, 3, BLOCKS)
    assert twins.run(refused) is None
    assert "batches of 4 rows run without a CUDA graph" in caplog.text
    assert "not permitted" in caplog.text
    caplog.clear()
    assert twins.run(refused) is None
    assert caplog.text == ""
    refused.eager(twins.model, twins.eager)
    twins.compare(random_inputs(rng, 6, BLOCKS))  # the others go on


def test_the_next_run_overwrites_the_logits() -> None:
    """Stated by the contract: nobody may keep them."""
    rng, twins = np.random.default_rng(7), Twins()
    rows = torch.tensor([0])
    found = []
    for number in (3, 4):
        inputs = random_inputs(rng, number, BLOCKS)
        logits = twins.run(
            Inputs(inputs.token_ids, inputs.positions, inputs.slots, inputs.work, rows)
        )
        assert logits is not None
        found.append(logits.data_ptr())
    assert found[0] == found[1]
