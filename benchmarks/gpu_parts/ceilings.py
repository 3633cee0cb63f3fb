"""What the device can do: a large copy, and matrix products of several heights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.gpu_parts.clock import Stopwatch
from benchmarks.gpu_parts.records import Record
from benchmarks.models import ModelShape

ROWS = (16, 64, 256, 1024, 2048, 4096, 8192)
_SECONDS = 0.2
"""Spent on each timing."""


@dataclass(frozen=True)
class Ceilings:
    """Measured rates.

    Attributes:
        copy_bytes_per_second: bytes read plus bytes written by a large copy.
        products: FLOP/s of the products of a layer together (with q, k, v and gate, up as one
            each), by the number of rows.
        square: FLOP/s of a large square product.
    """

    copy_bytes_per_second: float
    products: dict[int, float]
    square: float

    @property
    def flops_per_second(self) -> float:
        """The fastest product seen."""
        return max(self.square, *self.products.values())

    def record(self) -> Record:
        """As it is written down."""
        return {
            "copy_bytes_per_second": self.copy_bytes_per_second,
            "flops_per_second": self.flops_per_second,
            "square_flops_per_second": self.square,
            "product_flops_per_second": self.products,
        }


def read_ceilings(record: Record) -> Ceilings:
    """What `Ceilings.record` wrote."""
    products = record["product_flops_per_second"]
    return Ceilings(
        record["copy_bytes_per_second"],
        {int(rows): rate for rows, rate in products.items()},
        record["square_flops_per_second"],
    )


def measure_ceilings(
    shape: ModelShape,
    device: torch.device,
    dtype: torch.dtype,
    watch: Stopwatch,
    copy_bytes: int,
    square: int,
    rows: tuple[int, ...] = ROWS,
) -> Ceilings:
    """Measure them on random data.

    Args:
        copy_bytes: of the source of the copy.
        square: rows and columns of the square product.
    """
    copy, whole = _copy_rate(copy_bytes, device, watch), _square_rate(square, device, dtype, watch)
    weights = [
        torch.randn(columns, width, device=device).to(dtype)
        for width, columns in shape.linear_shapes.values()
    ]
    products = {count: _layer_rate(weights, count, watch) for count in rows}
    return Ceilings(copy, products, whole)


def _copy_rate(copy_bytes: int, device: torch.device, watch: Stopwatch) -> float:
    source = torch.randn(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * copy_bytes / watch.seconds(lambda: target.copy_(source), _SECONDS)


def _square_rate(size: int, device: torch.device, dtype: torch.dtype, watch: Stopwatch) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / watch.seconds(lambda: a @ b, _SECONDS)


def _layer_rate(weights: list[torch.Tensor], rows: int, watch: Stopwatch) -> float:
    flops, seconds = 0, 0.0
    for weight in weights:
        columns, width = weight.shape
        x = torch.randn(rows, width, device=weight.device).to(weight.dtype)
        seconds += _linear_seconds(x, weight, watch)
        flops += 2 * rows * width * columns
    return flops / seconds


def _linear_seconds(x: torch.Tensor, weight: torch.Tensor, watch: Stopwatch) -> float:
    return watch.seconds(lambda: functional.linear(x, weight), _SECONDS / 4)
