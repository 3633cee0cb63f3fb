"""Capturing work on a CUDA device into a graph that replays it with one launch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class Recorder(Protocol):
    """Turns work on static buffers into something that does it again, cheaper."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do `work` now, and return what does the same on what the buffers hold then.

        `work` is called more than once. It must give the device the same operations on the same
        addresses each time, and read nothing back.

        Raises:
            RuntimeError: it could not be recorded, or not done.
        """


class CudaRecorder:
    """Records CUDA graphs that share one memory pool, so no two of them may run at a time.

    Record the largest first: what the later ones need then fits into what it took.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        """`cuda`: what offers torch.cuda's names; for tests."""
        self._device, self._cuda = device, cuda
        # cuBLAS keeps a workspace per stream: what is captured finds the one of the run before it.
        self._stream = cuda.Stream(device)
        self._pool = cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture on a stream of its own, after a run to warm up. Waits for the device once."""
        current = self._cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with self._cuda.stream(self._stream):
                # What is done once only (kernels compiled and loaded, handles made) is done here.
                work()
                graph = self._captured(work)
        finally:
            current.wait_stream(self._stream)
        replay: Callable[[], None] = graph.replay
        return replay

    def _captured(self, work: Callable[[], None]) -> Any:
        self._cuda.synchronize(self._device)
        graph = self._cuda.CUDAGraph()
        with _no_collection():
            # Only this thread is held to what may be done during a capture.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()
        return graph


@contextmanager
def _no_collection() -> Iterator[None]:
    """No cycle is collected in this block: freeing a CUDA object would spoil a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
