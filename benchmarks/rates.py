"""What the machine can do at the time of a run: matrix products and memory copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.models import ModelShape

ROWS = 2048
FORMATS = torch.bfloat16, torch.float32
LEAST_TIMINGS = 5
_SECONDS = 0.08
_COPY_BYTES = 256 * 2**20


class RateMeter:
    """Takes one timing whenever asked, and gives medians.

    A matrix-product timing is the rate of the fastest of the model's products at `ROWS` rows,
    through torch's linear function, each repeated for about 0.08 s: in bfloat16 and in float32, of
    which the faster counts. Some processors multiply float32 faster.
    """

    def __init__(self, shape: ModelShape) -> None:
        self._linears = {
            (name, dtype): (
                torch.randn(ROWS, rows).to(dtype),
                torch.randn(columns, rows).to(dtype),
            )
            for name, (rows, columns) in shape.linear_shapes.items()
            for dtype in FORMATS
        }
        self._names = list(shape.linear_shapes)
        self._source = torch.ones(_COPY_BYTES // 8, dtype=torch.float64)
        self._target = torch.zeros_like(self._source)
        self._matmul: list[dict[torch.dtype, float]] = []
        self._layer: list[dict[torch.dtype, float]] = []
        self._copy: list[float] = []

    def measure(self) -> None:
        """Take one timing of each rate, about a second."""
        seconds = {key: self._linear_seconds(key) for key in self._linears}
        flops = {key: self._flops(key) for key in self._linears}
        self._matmul.append(
            {d: max(flops[n, d] / seconds[n, d] for n in self._names) for d in FORMATS}
        )
        self._layer.append(
            {
                d: sum(flops[n, d] for n in self._names) / sum(seconds[n, d] for n in self._names)
                for d in FORMATS
            }
        )
        copy = _seconds(lambda: self._target.copy_(self._source))
        self._copy.append(2 * _COPY_BYTES / copy)

    def complete(self) -> None:
        """Take the timings that are still missing to `LEAST_TIMINGS`."""
        while len(self._matmul) < LEAST_TIMINGS:
            self.measure()

    @property
    def matmul_dtype(self) -> torch.dtype:
        """The format whose products are faster here."""
        return max(FORMATS, key=lambda dtype: _median(self._matmul, dtype))

    @property
    def matmul_flops(self) -> float:
        """Median rate of the fastest product, FLOP/s."""
        return _median(self._matmul, self.matmul_dtype)

    @property
    def layer_flops(self) -> float:
        """Median rate over all products of a layer, FLOP/s."""
        return _median(self._layer, self.matmul_dtype)

    @property
    def copy_bytes(self) -> float:
        """Median rate of a large copy, bytes read plus bytes written per second."""
        return statistics.median(self._copy)

    def _linear_seconds(self, key: tuple[str, torch.dtype]) -> float:
        x, weight = self._linears[key]
        with torch.inference_mode():
            return _seconds(lambda: functional.linear(x, weight))

    def _flops(self, key: tuple[str, torch.dtype]) -> int:
        x, weight = self._linears[key]
        return 2 * x.shape[0] * weight.shape[0] * weight.shape[1]


def _median(timings: list[dict[torch.dtype, float]], dtype: torch.dtype) -> float:
    return statistics.median(timing[dtype] for timing in timings)


def _seconds(call: Callable[[], object]) -> float:
    """Mean seconds of a call, after one that is not counted."""
    call()
    began, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < _SECONDS or calls < 3:
        call()
        calls += 1
    return elapsed / calls
