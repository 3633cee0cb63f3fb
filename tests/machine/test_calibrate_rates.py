"""The measured rates: the fit finds what was put in, and the batches have the shape they claim."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from shoal.config import EngineOptions
from shoal.engine.engine import Engine
from shoal.machine import calibrate
from shoal.machine.calibrate_batches import OWN, STEPS, Bench, Decoding
from shoal.machine.calibrate_rates import (
    GROUPS,
    MOST_ROUNDS,
    ROWS,
    SPLITS,
    measure_rates,
    overheads,
    prefill_flops,
)
from shoal.machine.calibration_cache import Calibration
from shoal.machine.model_costs import default_costs
from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.cuda_models import tiny
from tests.helpers.cuda_twins import BLOCKS, Twins
from tests.helpers.models import save_model

CASES = list(itertools.product(GROUPS, (len(levels) for levels in SPLITS)))


def seconds(segment: float, use: float) -> dict[tuple[int, int], float]:
    return {(g, k): 0.01 + 0.002 * g + segment * g * k + use * ROWS * k for g, k in CASES}


@pytest.mark.parametrize("segment", [0.0, 1e-5, 3e-4])
@pytest.mark.parametrize("use", [0.0, 1e-6, 4e-5])
def test_the_fit_finds_the_overheads(segment: float, use: float) -> None:
    assert overheads(seconds(segment, use)) == pytest.approx((segment, use), abs=1e-12)


@pytest.mark.parametrize(("segment", "use"), [(-1e-5, 1e-6), (1e-4, -1e-6), (-1e-5, -1e-6)])
def test_no_overhead_is_negative(segment: float, use: float) -> None:
    """Where one would be, the other explains what it can."""
    found = overheads(seconds(segment, use))
    assert min(found) == 0
    assert max(found) <= max(segment, use, 0) * 1.0001


def test_noise_moves_the_fit_little() -> None:
    rng = np.random.default_rng(1)
    noisy = {case: t + rng.normal(0, 1e-6) for case, t in seconds(2e-5, 2e-6).items()}
    assert overheads(noisy) == pytest.approx((2e-5, 2e-6), rel=0.3)


def test_splits_hold_the_same_tokens() -> None:
    assert len({sum(levels) for levels in SPLITS}) == 1
    assert all(tokens % 32 == 16 for levels in SPLITS for tokens in levels)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = str(save_model(tmp_path_factory.mktemp("model"), "llama"))
    options = EngineOptions(dtype="float32", kv_memory="16MiB", token_budget=64)
    description = ModelDescription.load(folder, options)
    engine = Engine(description, options)
    return Bench(engine._model, description, engine._kv, engine.machine.num_blocks)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("levels", SPLITS)
def test_batches_decode_behind_their_segments(bench: Bench, groups: int, levels: list[int]) -> None:
    users = ROWS // groups
    work = Decoding(bench, groups=groups, users=users, levels=levels).batch.attention
    assert work.num_rows == ROWS
    assert work.causal.sum() == ROWS
    assert (work.kv_tokens[work.causal] == OWN + 1).all()
    shared = ~work.causal
    assert shared.sum() == groups * len(levels)
    assert sorted(work.kv_tokens[shared]) == sorted(levels * groups)
    assert ((work.row_last - work.row_first)[shared] == users).all()


def test_sequences_last_as_many_rounds_as_are_measured(bench: Bench) -> None:
    decoding = Decoding(bench, groups=2, users=2, levels=[48])
    for round_ in range(1, MOST_ROUNDS + 1):
        batch, seconds = decoding.step()
        assert batch.num_tokens == 4
        assert (batch.attention.kv_tokens[batch.attention.causal] == OWN + 1 + round_).all()
        assert seconds > 0
    assert OWN + 1 + MOST_ROUNDS <= OWN + STEPS


def test_rates_make_sense(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal.machine.calibrate_rates.SECONDS", 0.2)
    rates = measure_rates(bench, 512, bench.prefill_seconds(512))
    assert 1e6 < rates.flops_per_second < 1e14
    assert 1e5 < rates.bytes_per_second < 1e13
    assert 0 < rates.iteration_seconds < 1
    assert 0 <= rates.segment_seconds < 0.01
    assert 0 <= rates.use_seconds < 0.01


@pytest.mark.parametrize("family", ["gemma4", "gpt_oss", "deepseek_v3, kimi k2"])
def test_layers_of_all_kinds_are_measured_by_what_they_see(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of several sizes; windows shorter than a prompt; latents."""
    monkeypatch.setattr("shoal.machine.calibrate_rates.SECONDS", 0.0)
    monkeypatch.setattr("shoal.machine.calibrate_rates.LEAST_ROUNDS", 1)
    options = EngineOptions(dtype="float32", kv_memory="16MiB", token_budget=64)
    description = ModelDescription.load(str(save_model(tmp_path, family)), options)
    engine = Engine(description, options)
    bench = Bench(engine._model, description, engine._kv, engine.machine.num_blocks)
    costs = default_costs(description, windows=bench.model.windows)
    assert costs == engine.machine.costs == default_costs(description)
    attention = prefill_flops(costs, 512) - 512 * costs.flops_per_token
    whole = 512 * 513 / 2 * costs.attention_flops
    assert 0 < attention <= whole
    assert (attention < whole) == (family in ("gemma4", "gpt_oss")), "only windows see less"
    assert measure_rates(bench, 512, 1.0).flops_per_second == prefill_flops(costs, 512)


def test_batches_that_graphs_take_are_measured_replayed() -> None:
    """A rate measured with eager forwards is that of launching them, where runs replay."""
    twins = Twins(sizes=(1, 64))
    model, description = twins.model, tiny()[1]
    bench = Bench(model, description, twins.replayed, BLOCKS, twins.graphs)
    plain = Bench(model, description, twins.replayed, BLOCKS)
    decoding = Decoding(plain, groups=2, users=2, levels=[48])
    assert bench.decode_seconds(decoding.batch) > 0
    assert twins.graphs.captured == (64,)
    records = twins.recorder.records
    bench.decode_seconds(decoding.batch)
    assert twins.recorder.records == records
    # Larger than any bucket.
    assert bench.prefill_seconds(512) > 0
    assert twins.graphs.captured == (64,)
    rows = torch.from_numpy(decoding.batch.slots), torch.from_numpy(decoding.batch.positions).long()
    ids = torch.arange(4)
    with torch.inference_mode():
        found, expected = (
            each._logits(decoding.batch.attention, ids, rows[1], rows[0]) for each in (bench, plain)
        )
    torch.testing.assert_close(found, expected)


def test_graphs_are_there_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none are made where rates are remembered."""
    made: list[object] = []
    monkeypatch.setattr(calibrate, "remembered", lambda _: None)
    monkeypatch.setattr(calibrate, "remember", lambda *_: None)
    monkeypatch.setattr(calibrate, "measure_rates", lambda bench, *_: made.append(bench.graphs))
    twins = Twins(sizes=(1, 64))
    pool, blocks = twins.replayed, 512 // BLOCK_SIZE
    monkeypatch.setattr(calibrate, "CANDIDATES", (512,))
    calibrate.calibrated(twins.model, tiny()[1], pool, blocks, lambda: twins.graphs)
    assert made == [twins.graphs]
    monkeypatch.setattr(calibrate, "remembered", lambda _: Calibration(512, None))
    calibrate.calibrated(twins.model, tiny()[1], pool, blocks, lambda: made.append(None))
    assert made == [twins.graphs]
