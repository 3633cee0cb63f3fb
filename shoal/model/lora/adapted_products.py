"""The products of a loaded model, to whose output adapters add their own.

A hook behind each product sees its input rows and its output. Rows of one adapter are a slice of
both, so its two small products read and write views. A fused product of several linear layers gets
what each of them is given, at that layer's columns: the first products of all of them are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from shoal.errors import InternalError
from shoal.model.fusion.linear import parts_of
from shoal.model.fusion.row_block import rows_under_way

MANY_ROWS = 256
"""Rows of one adapter from which on its products take all threads."""

Slice = tuple[int, int, int]
"""An adapter, and the rows it has from one up to another."""


class Place(NamedTuple):
    """Where a linear layer's output is: in which product, and from which column on."""

    product: int
    column: int


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


Weights = Mapping[int, ProductAdapter]
"""An adapter in memory: what it adds, by product."""


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


class AdaptedProducts:
    """Adds to a model's products while `applied`. One per model; its hooks stay.

    Attributes:
        places: where each linear layer's output is, by its name in the model's class.
    """

    def __init__(self, module: nn.Module) -> None:
        self.places: dict[str, list[Place]] = {}
        self._slices: dict[int, Sequence[Slice]] = {}
        self._weights: Mapping[int, Weights] = {}
        number = 0
        for each in module.modules():
            named = [part for part in parts_of(each) if part.name is not None]
            if not named:
                continue
            each.register_forward_hook(self._hook(number))
            column = 0
            for part in parts_of(each):
                if part.name is not None:
                    self.places.setdefault(part.name, []).append(Place(number, column))
                column += part.outputs
            number += 1

    @contextmanager
    def applied(
        self, slices: Mapping[int, Sequence[Slice]], weights: Mapping[int, Weights]
    ) -> Iterator[None]:
        """Add within this block.

        Args:
            slices: which rows have which adapter, by how many rows there are: a batch's last layer
                may compute fewer than the others.
            weights: of all adapters in the slices.
        """
        self._slices, self._weights = dict(slices), weights
        try:
            yield
        finally:
            self._slices, self._weights = {}, {}

    def _hook(self, number: int) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> None:
            if self._slices:
                self._add(number, given[0], out)

        return hook

    def _add(self, number: int, x: torch.Tensor, out: torch.Tensor) -> None:
        x, out = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        first, rows = rows_under_way(len(x))
        if rows not in self._slices:
            if not any(number in weights for weights in self._weights.values()):
                return
            raise InternalError(
                f"a product of {rows} rows in a batch of {sorted(self._slices)}: an adapter does "
                "not know which are its own"
            )
        for adapter, begin, end in self._slices[rows]:
            part = self._weights[adapter].get(number)
            begin, end = max(begin - first, 0), min(end - first, len(x))
            if part is not None and begin < end:
                with threads_for(end - begin, x.device):
                    part.add_to(out[begin:end], x[begin:end])
