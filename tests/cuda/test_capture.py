"""The order of CUDA calls around a capture, on a stand-in for torch.cuda."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from shoal.cuda.capture import CudaRecorder


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.calls.append(f"{self.name} waits for {other.name}")


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert pool == "pool"
        assert capture_error_mode == "thread_local"
        assert not gc.isenabled()
        self.cuda.calls.append(f"begin on {self.cuda.current.name}")

    def capture_end(self) -> None:
        self.cuda.calls.append("end")

    def replay(self) -> None:
        self.cuda.calls.append(f"replay on {self.cuda.current.name}")


class Cuda:
    """Stands for torch.cuda."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.current = Stream(self, "main")

    def Stream(self, device: torch.device) -> Stream:  # noqa: N802
        return Stream(self, "side")

    def CUDAGraph(self) -> Graph:  # noqa: N802
        return Graph(self)

    def graph_pool_handle(self) -> str:
        return "pool"

    def current_stream(self, device: torch.device) -> Stream:
        return self.current

    def synchronize(self, device: torch.device) -> None:
        self.calls.append("synchronize")

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


def test_work_runs_once_and_is_captured_once_on_a_stream_of_its_own() -> None:
    cuda = Cuda()
    recorder = CudaRecorder(torch.device("cuda"), cuda)
    replay = recorder.record(lambda: cuda.calls.append(f"work on {cuda.current.name}"))
    assert cuda.calls == [
        "side waits for main",
        "work on side",
        "synchronize",
        "begin on side",
        "work on side",
        "end",
        "main waits for side",
    ]
    assert gc.isenabled()
    cuda.calls.clear()
    replay()
    assert cuda.calls == ["replay on main"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_leaves_the_capture_and_the_stream(failing: int) -> None:
    cuda = Cuda()
    recorder = CudaRecorder(torch.device("cuda"), cuda)
    runs = 0

    def work() -> None:
        nonlocal runs
        runs += 1
        if runs == failing:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        recorder.record(work)
    assert cuda.current.name == "main"
    assert cuda.calls[-1] == "main waits for side"
    assert ("end" in cuda.calls) == ("begin on side" in cuda.calls) == (failing == 2)
    assert gc.isenabled()
