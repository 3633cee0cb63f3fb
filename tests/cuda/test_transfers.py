"""Columns packed for one copy, and results that come back."""

import numpy as np
import pytest
import torch

from shoal.cuda.transfers import FIRST_BYTES, TURNS, DirectStage, Landing, PackedStage
from tests.helpers.ahead import StandInEvent, stand_in_transfers

CPU = torch.device("cpu")


def plain(num_bytes):
    return torch.zeros(num_bytes, dtype=torch.uint8)


def columns(seed=0, scale=1):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 1 << 40, 5 * scale),
        rng.random(3 * scale).astype(np.float32),
        np.zeros(0, dtype=np.int64),
        rng.random((7 * scale, 2)),
        rng.integers(0, 9, scale).astype(np.int32),
    ]


def put_all(stage, arrays):
    return [stage.put(array) for array in arrays]


def same(tensors, arrays):
    return all(
        tensor.numpy().dtype == array.dtype and np.array_equal(tensor.numpy(), array)
        for tensor, array in zip(tensors, arrays, strict=True)
    )


@pytest.mark.parametrize("num_bytes", [64, 1 << 12])
def test_what_is_put_arrives_when_it_is_sent(num_bytes):
    """Also where the buffer is too small at first."""
    stage = PackedStage(CPU, plain, num_bytes)
    for seed in range(4):
        stage.clear()
        arrays = columns(seed, scale=1 + 9 * (seed % 2))
        tensors = put_all(stage, arrays)
        assert not same(tensors, arrays)
        stage.send()
        assert same(tensors, arrays)
        assert all(tensor.data_ptr() % 16 == 0 for tensor in tensors if len(tensor))


def test_one_copy_once_it_has_grown(monkeypatch):
    copies = []
    copy = torch.Tensor.copy_
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda self, *a, **k: copies.append(k) or copy(self, *a, **k)
    )
    stage = PackedStage(CPU, plain, 64)
    put_all(stage, columns(scale=100))
    stage.send()
    assert len(copies) > 1
    copies.clear()
    stage.clear()
    put_all(stage, columns(scale=100))
    stage.send()
    assert copies == [{"non_blocking": True}]


def test_nothing_is_copied_where_the_host_computes():
    array = np.arange(4)
    stage = DirectStage()
    tensor = stage.put(array)
    stage.send()
    assert tensor.data_ptr() == array.ctypes.data


def test_results_of_any_size_and_kind_are_waited_for():
    event = StandInEvent()
    landing = Landing(plain, event)
    for count in (1, FIRST_BYTES, 3):
        results = [torch.arange(count), torch.rand(count, 2), torch.zeros(0, 20)]
        wait = landing.begin(results)
        assert event.recorded == event.waited + 1
        arrays = wait()
        assert event.recorded == event.waited
        assert same(results, arrays)


def test_buffers_of_batches_under_way_are_not_touched():
    """Two are under way while a third is packed."""
    transfers = stand_in_transfers()
    kept = []
    for number in range(3 * TURNS):
        stage, landing = transfers.turn()
        array = np.full(6, number)
        tensor = stage.put(array)
        stage.send()
        kept.append((tensor, landing.begin([tensor]), array))
        for earlier, _, expected in kept[-TURNS:]:
            assert same([earlier], [expected])
        if number >= 2:
            assert same([torch.from_numpy(kept[number - 2][1]()[0])], [kept[number - 2][2]])
