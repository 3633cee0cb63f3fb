"""Adapters added on the CPU in C++: one call for each product and batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from shoal.kernels import Kernels
from shoal.kernels.interface import DTYPES
from shoal.kernels.lora import MATRICES, AdapterSlices, LoraOp, MatricesArray, write_panels
from shoal.model.lora.adapter_matrices import LinearAdapter, Place
from shoal.types import BoolArray


class GroupedAdapter(NamedTuple):
    """An adapter in memory.

    Attributes:
        table: [places] of `MATRICES`, whose addresses are in `memory`.
        memory: all of its numbers.
    """

    table: MatricesArray
    memory: torch.Tensor


class GroupedProducts:
    """See `Additions`."""

    def __init__(self, kernels: Kernels, places: Sequence[Place]) -> None:
        """`places`: all there are, by number; those of a product follow each other."""
        self._kernels, self._places = kernels, len(places)
        of_product: dict[int, list[Place]] = {}
        for place in places:
            of_product.setdefault(place.product, []).append(place)
        self._ops = {
            product: LoraOp(kernels, [p.column for p in some], [p.outputs for p in some])
            for product, some in of_product.items()
        }
        self._columns = {
            product: slice(some[0].number, some[-1].number + 1)
            for product, some in of_product.items()
        }
        self.use([])

    def hold(self, linears: list[LinearAdapter], dtype: torch.dtype) -> GroupedAdapter:
        """See `Additions`."""
        memory = torch.empty(sum(each.a.numel() + each.b.numel() for each in linears), dtype=dtype)
        self._kernels.lib.shoal_use_huge_pages(memory.data_ptr(), memory.nbytes)
        table, at = np.zeros(self._places, MATRICES), 0
        for place, a, b, scale in linears:
            of_a, of_b = memory[at : at + a.numel()], memory[at + a.numel() :][: b.numel()]
            of_a.view_as(a).copy_(a)
            write_panels(b, of_b)
            table[place.number] = (of_a.data_ptr(), of_b.data_ptr(), scale, len(a), DTYPES[dtype])
            at += a.numel() + b.numel()
        return GroupedAdapter(table, memory)

    def use(self, held: list[GroupedAdapter]) -> None:
        """See `Additions`."""
        self._held = held
        tables = [each.table for each in held]
        self._table = np.stack(tables) if tables else np.zeros((0, self._places), MATRICES)
        self._changed: BoolArray = np.any(self._table["rank"] > 0, axis=0)

    def changes(self, product: int) -> bool:
        """See `Additions`."""
        return bool(self._changed[self._columns[product]].any())

    def add(
        self, product: int, x: torch.Tensor, out: torch.Tensor, slices: AdapterSlices, first: int
    ) -> None:
        """See `Additions`."""
        self._ops[product](x, out, slices, self._table[:, self._columns[product]], first)
