"""What the machine can do at the time of a run: matrix products and memory copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.models import ModelShape

ROWS = 2048
LEAST_TIMINGS = 5
_SECONDS = 0.08
_COPY_BYTES = 256 * 2**20


class RateMeter:
    """Takes one timing whenever asked, and gives medians.

    A matrix-product timing is the rate of the fastest of the model's products at `ROWS` rows, in
    bfloat16, through torch's linear function, each repeated for about 0.08 s.
    """

    def __init__(self, shape: ModelShape) -> None:
        self._linears = {
            name: (torch.randn(ROWS, rows).bfloat16(), torch.randn(columns, rows).bfloat16())
            for name, (rows, columns) in shape.linear_shapes.items()
        }
        self._source = torch.ones(_COPY_BYTES // 8, dtype=torch.float64)
        self._target = torch.zeros_like(self._source)
        self._matmul: list[float] = []
        self._layer: list[float] = []
        self._copy: list[float] = []

    def measure(self) -> None:
        """Take one timing of each rate, about half a second."""
        seconds = {name: self._linear_seconds(name) for name in self._linears}
        flops = {name: self._flops(name) for name in self._linears}
        self._matmul.append(max(flops[name] / seconds[name] for name in flops))
        self._layer.append(sum(flops.values()) / sum(seconds.values()))
        copy = _seconds(lambda: self._target.copy_(self._source))
        self._copy.append(2 * _COPY_BYTES / copy)

    def complete(self) -> None:
        """Take the timings that are still missing to `LEAST_TIMINGS`."""
        while len(self._matmul) < LEAST_TIMINGS:
            self.measure()

    @property
    def matmul_flops(self) -> float:
        """Median rate of the fastest product, FLOP/s."""
        return statistics.median(self._matmul)

    @property
    def layer_flops(self) -> float:
        """Median rate over all products of a layer, FLOP/s."""
        return statistics.median(self._layer)

    @property
    def copy_bytes(self) -> float:
        """Median rate of a large copy, bytes read plus bytes written per second."""
        return statistics.median(self._copy)

    def _linear_seconds(self, name: str) -> float:
        x, weight = self._linears[name]
        with torch.inference_mode():
            return _seconds(lambda: functional.linear(x, weight))

    def _flops(self, name: str) -> int:
        x, weight = self._linears[name]
        return 2 * x.shape[0] * weight.shape[0] * weight.shape[1]


def _seconds(call: Callable[[], object]) -> float:
    """Mean seconds of a call, after one that is not counted."""
    call()
    began, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < _SECONDS or calls < 3:
        call()
        calls += 1
    return elapsed / calls
