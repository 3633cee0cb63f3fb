"""The KV pool's size: as stated on the CPU, by measurement on a (made-up) device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import shoal.machine.placement as place_module
from shoal.attention.reference import ReferenceAttention
from shoal.config import EngineOptions
from shoal.errors import OptionError
from shoal.machine.calibrate import CANDIDATES
from shoal.machine.calibration_cache import DEFAULT_TOKEN_BUDGET
from shoal.machine.capacity import (
    CPU_KV_BYTES,
    CapacitySource,
    estimate,
    planned_capacity,
    stated_blocks,
)
from shoal.machine.placement import Placement, Placing, place
from shoal.model.description import ModelDescription
from shoal.model.kv import KVPool
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.cuda_models import tiny
from tests.helpers.cuda_standins import FixedReference, MadeUpMemory, TapeRecorder

pytestmark = pytest.mark.long

MIB = 2**20
SIZES = (1, 2, 4, 8)
WEIGHTS = 20 * MIB
PER_ROW = 10_000
"""Bytes of activations of a row, in these tests."""


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token budget is the default unless stated; probing is told what it takes."""
    monkeypatch.setattr(place_module, "calibrated", lambda *_: None)
    monkeypatch.setattr(place_module, "remembered", lambda _: None)


def on_cuda() -> ModelDescription:
    """A description for a device that is not there; nothing of these tests goes to it."""
    return replace(tiny()[1], device=torch.device("cuda"))


class Device(MadeUpMemory):
    """A made-up device that knows of the tensors of a placement: pools, batches, graphs."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch, graph_bytes: int = 0) -> None:
        super().__init__(size, others=MIB, held=WEIGHTS)
        self.probed: list[int] = []
        self.pools: list[int] = []
        self.graph_bytes = graph_bytes
        device = self

        class Pool(KVPool):
            """What it takes is taken from the device."""

            def __init__(self, backend: Any, layers: Any, num_blocks: int, *rest: Any) -> None:
                super().__init__(backend, layers, num_blocks, *rest)
                self.bytes = num_blocks * BLOCK_SIZE * tiny()[1].kv_bytes_per_token
                device.take(self.bytes)
                device.pools.append(num_blocks)

            def __del__(self) -> None:
                device.take(-self.bytes)

        def probe(model: object, kv: KVPool, description: object, rows: int) -> None:
            device.probed.append(rows)
            device.take(rows * PER_ROW)
            device.take(-rows * PER_ROW)

        monkeypatch.setattr(place_module, "KVPool", Pool)
        monkeypatch.setattr(place_module, "probe", probe)

    def recorder(self) -> Callable[[], TapeRecorder]:
        device = self

        class Recorder(TapeRecorder):
            def __init__(self) -> None:
                super().__init__()
                device.take(device.graph_bytes)

            def __del__(self) -> None:
                device.take(-device.graph_bytes)

        return Recorder

    def place(self, backend: Any = None, **options: Any) -> Placement:
        model, description = tiny()
        placing = Placing(
            model,
            description,
            EngineOptions(**{"memory_fraction": 0.9, "kv_memory": "auto", **options}),
            backend or ReferenceAttention(),
            SIZES,
        )
        if options.get("kv_memory", "auto") == "auto":
            placing._stated = None  # as on CUDA: this description says CPU
        return placing.by_measurement(self, self.recorder())


def block_bytes() -> int:
    return BLOCK_SIZE * tiny()[1].kv_bytes_per_token


def test_the_cpu_takes_what_is_stated_or_a_gibibyte() -> None:
    model, description = tiny()
    for options, size in (
        (EngineOptions(), CPU_KV_BYTES),
        (EngineOptions(kv_memory="3MiB", token_budget=77), 3 * MIB),
    ):
        blocks = stated_blocks(description, options)
        assert blocks == size // block_bytes()
    placed = place(model, description, options)
    assert (placed.machine.num_blocks, placed.machine.token_budget, placed.graphs) == (
        blocks,
        77,
        None,
    )
    assert placed.kv[0].shape.num_blocks == blocks


def test_cuda_knows_only_what_is_stated() -> None:
    assert stated_blocks(on_cuda(), EngineOptions()) is None
    assert stated_blocks(on_cuda(), EngineOptions(kv_memory="3MiB")) == 3 * MIB // block_bytes()
    with pytest.raises(OptionError, match="no KV block"):
        stated_blocks(on_cuda(), EngineOptions(kv_memory="1B"))


def test_kv_takes_what_weights_others_and_a_batch_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(200 * MIB, monkeypatch)
    placed = device.place()
    left = int(200 * MIB * 0.9) - MIB - WEIGHTS - DEFAULT_TOKEN_BUDGET * PER_ROW
    assert placed.machine.num_blocks == left // block_bytes()
    assert placed.machine.token_budget == DEFAULT_TOKEN_BUDGET
    assert device.probed == [DEFAULT_TOKEN_BUDGET]
    assert device.pools[-1] == placed.machine.num_blocks
    # The trial pool is gone, and the batch still fits.
    assert device.held == WEIGHTS + placed.machine.num_blocks * block_bytes()
    device.take(DEFAULT_TOKEN_BUDGET * PER_ROW)


def test_graphs_are_measured_too_and_get_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(200 * MIB, monkeypatch, graph_bytes=7 * MIB)
    placed = device.place(FixedReference())
    left = int(200 * MIB * 0.9) - MIB - WEIGHTS - DEFAULT_TOKEN_BUDGET * PER_ROW - 7 * MIB
    assert placed.machine.num_blocks == left // block_bytes() - 1
    assert device.pools[-1] == placed.machine.num_blocks + 1
    assert placed.graphs is not None
    assert placed.graphs.captured == (8,)


def test_a_small_pool_has_small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(200 * MIB, monkeypatch)
    model, description = tiny()
    options = EngineOptions(kv_memory=f"{2 * block_bytes()}B", token_budget=500)
    placing = Placing(model, description, options, FixedReference(), (8, 64, 128))
    graphs = placing.by_measurement(device, device.recorder()).graphs
    assert graphs is not None
    assert graphs.sizes == (8, 64)


def test_without_graphs_none_are_paid_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(200 * MIB, monkeypatch)
    monkeypatch.setattr(place_module, "graphed_forward", lambda *_: None)
    assert device.place(FixedReference()).graphs is None


def test_a_budget_that_is_stated_is_probed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(400 * MIB, monkeypatch)
    assert device.place(token_budget=5000).machine.token_budget == 5000
    assert device.probed == [5000]


def test_a_budget_that_is_not_stated_shrinks_until_its_batch_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2048 rows would leave a pool that holds fewer tokens."""
    monkeypatch.setattr(place_module, "TRIAL_TOKENS", 2048)
    tokens = DEFAULT_TOKEN_BUDGET * tiny()[1].kv_bytes_per_token
    size = WEIGHTS + MIB + DEFAULT_TOKEN_BUDGET * PER_ROW + tokens
    device = Device(size, monkeypatch)
    placed = device.place(memory_fraction=0.99)
    assert device.probed == [2048, 1024]
    assert placed.machine.token_budget == 1024
    assert placed.machine.num_blocks * BLOCK_SIZE >= 1024


def test_a_batch_that_runs_out_of_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(WEIGHTS + MIB + 2500 * PER_ROW, monkeypatch)
    placed = device.place(memory_fraction=1.0)
    assert device.probed == [2048, 1024]
    assert placed.machine.token_budget == 1024
    assert device.emptied > 2


def test_a_stated_budget_is_never_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(WEIGHTS + MIB + 1500 * PER_ROW, monkeypatch)
    with pytest.raises(OptionError, match="batches of 2048 tokens"):
        device.place(token_budget=2048, memory_fraction=1.0)


def test_a_stated_budget_may_take_most_of_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trial pool is no larger than its batch needs."""
    device = Device(WEIGHTS + MIB + 2500 * PER_ROW, monkeypatch)
    placed = device.place(token_budget=2000, memory_fraction=1.0)
    assert device.pools[0] == 2000 // BLOCK_SIZE + 1
    assert placed.machine.num_blocks == 500 * PER_ROW // block_bytes()


def test_no_room_for_the_smallest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(WEIGHTS + 2 * MIB, monkeypatch)
    with pytest.raises(OptionError, match=f"batches of {CANDIDATES[0]} tokens"):
        device.place()
    assert device.pools == []


def test_a_stated_size_is_taken_if_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(200 * MIB, monkeypatch)
    placed = device.place(kv_memory="50MiB")
    assert placed.machine.num_blocks == 50 * MIB // block_bytes()


def test_a_stated_size_shrinks_the_batch_first(monkeypatch: pytest.MonkeyPatch) -> None:
    left = int(200 * MIB * 0.9) - MIB - WEIGHTS
    device = Device(200 * MIB, monkeypatch)
    placed = device.place(kv_memory=f"{left - 1100 * PER_ROW}B")
    assert placed.machine.token_budget == 1024


def test_a_stated_size_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(200 * MIB, monkeypatch)
    with pytest.raises(OptionError, match=r"kv_memory of 0\.18 GiB does not fit") as raised:
        device.place(kv_memory="180MiB", token_budget=600)
    assert "0.18 GiB of the device's 0.20 GiB may be used" in str(raised.value)
    assert "weights" in str(raised.value)
    assert len(device.pools) == 1  # the trial's


def test_scratch_counts_where_a_stated_size_barely_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    left = int(200 * MIB * 0.9) - MIB - WEIGHTS - 600 * PER_ROW
    monkeypatch.setattr(place_module, "graphed_forward", lambda *_: None)
    blocks = left // block_bytes()
    fits = f"{(blocks - 1) * block_bytes()}B"
    device = Device(200 * MIB, monkeypatch)
    placed = device.place(FixedReference(), kv_memory=fits, token_budget=600)
    assert placed.machine.num_blocks == blocks - 1
    with pytest.raises(OptionError, match="does not fit"):
        Device(200 * MIB, monkeypatch).place(
            FixedReference(), kv_memory=f"{blocks * block_bytes()}B", token_budget=600
        )


def test_the_log_says_what_takes_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        Device(200 * MIB, monkeypatch).place()
    assert "GiB weights" in caplog.text


def test_what_a_plan_says_of_the_pool() -> None:
    _, description = tiny()
    default = planned_capacity(description, EngineOptions())
    assert default.source is CapacitySource.default
    assert default.tokens == CPU_KV_BYTES // block_bytes() * BLOCK_SIZE
    stated = planned_capacity(on_cuda(), EngineOptions(kv_memory="3MiB"))
    assert (stated.source, stated.tokens) == ("stated", 3 * MIB // block_bytes() * BLOCK_SIZE)
    memory = MadeUpMemory(size=64 * MIB, others=MIB)
    options = EngineOptions(token_budget=100, memory_fraction=0.5)
    estimated = planned_capacity(on_cuda(), options, memory)
    assert estimated.source is CapacitySource.estimated
    weights = sum(p.numel() for p in tiny()[0].module.parameters()) * 4
    left = 32 * MIB - MIB - weights - 2 * 100 * 256 * 4
    assert estimate(on_cuda(), options, memory) == left
    assert estimated.tokens == left // block_bytes() * BLOCK_SIZE
    with pytest.raises(OptionError, match="too large"):
        planned_capacity(on_cuda(), options, MadeUpMemory(size=MIB // 4))
