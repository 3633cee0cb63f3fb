"""Adapters added by torch, slice by slice: on CUDA, and where there are no C++ kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from shoal.kernels.lora import AdapterSlices
from shoal.model.lora.adapter_matrices import LinearAdapter

MANY_ROWS = 256
"""Rows of one adapter from which on its products take all threads."""


class Addition(NamedTuple):
    """What one linear layer's columns get: `low[:, first:last] @ matrix`."""

    first: int
    last: int
    column: int
    matrix: torch.Tensor


@dataclass(frozen=True)
class ProductAdapter:
    """One adapter's part in one product.

    Attributes:
        low: [R, in], the A of all its linear layers, one after another.
        additions: of each of them, with B^T * scale [rank, out].
    """

    low: torch.Tensor
    additions: tuple[Addition, ...]

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """out: [rows, out], changed in place; x: [rows, in].

        A slice is converted by itself: a whole batch's sums in another format, to be added at
        once, take longer to allocate than they save (docs/lab-notes.md).
        """
        low = functional.linear(x.to(self.low.dtype), self.low)
        for first, last, column, matrix in self.additions:
            into = out[:, column : column + matrix.shape[1]]
            if into.dtype == low.dtype:
                into.addmm_(low[:, first:last], matrix)
            else:
                into.add_(low[:, first:last] @ matrix)


class SliceProducts:
    """See `Additions`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held: list[Mapping[int, ProductAdapter]] = []

    def hold(self, linears: list[LinearAdapter], dtype: torch.dtype) -> dict[int, ProductAdapter]:
        """See `Additions`."""
        of_product: dict[int, list[LinearAdapter]] = {}
        for each in linears:
            of_product.setdefault(each.place.product, []).append(each)
        return {product: self._part(some, dtype) for product, some in of_product.items()}

    def use(self, held: list[Mapping[int, ProductAdapter]]) -> None:
        """See `Additions`."""
        self._held = held

    def changes(self, product: int) -> bool:
        """See `Additions`."""
        return any(product in each for each in self._held)

    def add(
        self, product: int, x: torch.Tensor, out: torch.Tensor, slices: AdapterSlices, first: int
    ) -> None:
        """See `Additions`."""
        for adapter, begin, end in zip(*(column.tolist() for column in slices), strict=True):
            part = self._held[adapter].get(product)
            begin, end = max(begin - first, 0), min(end - first, len(x))
            if part is not None and begin < end:
                with threads_for(end - begin, x.device):
                    part.add_to(out[begin:end], x[begin:end])

    def _part(self, linears: list[LinearAdapter], dtype: torch.dtype) -> ProductAdapter:
        """`linears`: those in one product."""
        low, additions, first = [], [], 0
        for place, a, b, scale in linears:
            low.append(a.to(dtype))
            matrix = (b.float() * scale).T.contiguous().to(self._device, dtype)
            additions.append(Addition(first, first + len(matrix), place.column, matrix))
            first += len(matrix)
        return ProductAdapter(torch.cat(low).to(self._device), tuple(additions))


@contextmanager
def threads_for(rows: int, device: torch.device) -> Iterator[None]:
    """One thread within this block for few rows on the CPU: to wake others takes longer."""
    before = torch.get_num_threads()
    if device.type != "cpu" or rows >= MANY_ROWS or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
