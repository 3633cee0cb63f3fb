"""Small parts: options, environments, merged counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from shoal.config import EngineOptions
from shoal.cuda.lost import raise_if_lost
from shoal.devices.local_processes import visible_devices
from shoal.devices.merged import added, merged, one_after_another
from shoal.devices.worker import _portable
from shoal.engine.run_stats import RunStats
from shoal.engine.trace import IterationTrace
from shoal.errors import DeviceLostError, InternalError, OptionError, UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.types import LengthCounts


@pytest.mark.parametrize("devices", [0, -1, 1.5, "2", True])
def test_devices_is_a_number(devices: Any) -> None:
    with pytest.raises(OptionError, match="devices must be a whole number of at least 1"):
        EngineOptions(devices=devices)


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (
        ModelDescription.load(None, EngineOptions(device="cuda", devices=2)).device.type == "cuda"
    )
    with pytest.raises(OptionError, match=r"devices 3: torch sees 2 CUDA device"):
        ModelDescription.load(None, EngineOptions(device="cuda", devices=3))


def test_each_worker_sees_its_own_device() -> None:
    cuda = [visible_devices("cuda", n, 1, {})["CUDA_VISIBLE_DEVICES"] for n in range(2)]
    assert cuda == ["0", "1"]
    some = visible_devices("cuda", 1, 1, {"CUDA_VISIBLE_DEVICES": "3, GPU-ab12,5"})
    assert some == {"CUDA_VISIBLE_DEVICES": "GPU-ab12"}
    assert visible_devices("cpu", 1, 1, {}) == {}
    assert visible_devices("cuda", 4, 2, {}) == {"CUDA_VISIBLE_DEVICES": "4,5"}
    few = visible_devices("cuda", 2, 2, {"CUDA_VISIBLE_DEVICES": "7,6,5,4"})
    assert few == {"CUDA_VISIBLE_DEVICES": "5,4"}


def test_errors_travel() -> None:
    error = UnsupportedModelError("sinks", "it has sinks")
    assert _portable(error) is error
    kind, arguments = error.__reduce__()  # type: ignore[misc]
    again = kind(*arguments)  # type: ignore[operator, misc]
    assert (again.feature, str(again)) == ("sinks", "it has sinks")
    try:
        raise ZeroDivisionError("by nought")
    except ZeroDivisionError as bug:
        found = _portable(bug)
    assert isinstance(found, InternalError)
    assert "by nought" in str(found)
    assert "test_devices.py" in str(found)


def test_counts_are_added() -> None:
    first = RunStats(
        iterations=3, tokens=30, running_sequences=2, kv_bytes_in_use=5, peak_kv_bytes=9
    )
    first.lengths = LengthCounts(answers=1, pilots=2, within_10=1.0, within_50=1.0, within_90=1.0)
    second = RunStats(
        iterations=1, tokens=7, running_sequences=1, kv_bytes_in_use=2, peak_kv_bytes=4
    )
    second.lengths = LengthCounts(answers=3, within_10=0.0, within_50=1 / 3, within_90=1.0)
    both = added((first, second))
    assert (both.iterations, both.tokens, both.running_sequences) == (4, 37, 3)
    assert (both.kv_bytes_in_use, both.peak_kv_bytes) == (7, 13)
    lengths = both.lengths
    assert (lengths.answers, lengths.pilots) == (4, 2)
    assert (lengths.within_10, lengths.within_50, lengths.within_90) == (0.25, 0.5, 1.0)
    in_turn = one_after_another(first, second)
    assert (in_turn.iterations, in_turn.running_sequences) == (4, 1)
    assert (in_turn.kv_bytes_in_use, in_turn.peak_kv_bytes) == (2, 9)
    assert first.iterations == 3


def test_traces_are_merged_by_time() -> None:
    a = np.array([[1.0, 1, 0, 0, 4, 10], [3.0, 1, 0, 0, 0, 0]])
    b = np.array([[2.0, 2, 0, 0, 5, 20], [4.0, 2, 0, 0, 0, 0]])
    trace = merged([a, b])
    assert trace.column("seconds").tolist() == [1, 2, 3, 4]
    assert trace.column("decode").tolist() == [1, 2, 1, 2]
    assert trace.column("running").tolist() == [4, 9, 5, 0]
    assert trace.column("kv_blocks").tolist() == [10, 30, 20, 0]
    assert len(merged([a[:0], b[:0]])) == 0
    again = IterationTrace.of_rows(trace.rows())
    assert np.array_equal(again.rows(2), trace.rows()[2:])


def test_a_lost_device_is_told_from_a_failed_iteration() -> None:
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    cuda = torch.device("cuda")

    def gone(device: torch.device) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nmore")

    raise_if_lost(error, torch.device("cpu"), gone)
    with pytest.raises(DeviceLostError, match="a peer"):
        raise_if_lost(DeviceLostError("a peer"), torch.device("cpu"), gone)
    raise_if_lost(error, cuda, lambda device: None)
    with pytest.raises(DeviceLostError, match="unspecified launch failure") as e:
        raise_if_lost(error, cuda, gone)
    assert e.value.__cause__ is error
