"""The products of a loaded model, to whose output adapters add their own.

A hook behind each product sees its input rows and its output. Rows of one adapter are a slice of
both, so its two small products read and write views. A fused product of several linear layers gets
what each of them is given, at that layer's columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shoal.errors import InternalError
from shoal.kernels import load_kernels
from shoal.kernels.lora import AdapterSlices
from shoal.model.fusion.linear import parts_of
from shoal.model.fusion.row_block import rows_under_way
from shoal.model.lora.adapter_matrices import Additions, Place
from shoal.model.lora.grouped_products import GroupedProducts
from shoal.model.lora.held_format import HeldFormat
from shoal.model.lora.slice_products import SliceProducts


class AdaptedProducts:
    """Adds to a model's products while `applied`. One per model; its hooks stay.

    Attributes:
        places: where each linear layer's output is, by its name in the model's class.
        held: the number format of adapters.
        additions: computes what they add.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        """`dtype`: of the model; `device`: that it is on."""
        self.places: dict[str, list[Place]] = {}
        self.held = HeldFormat.of(dtype, device)
        self._slices: Mapping[int, AdapterSlices] = {}
        numbered: list[Place] = []
        product = 0
        for each in module.modules():
            named = [part for part in parts_of(each) if part.name is not None]
            if not named:
                continue
            each.register_forward_hook(self._hook(product))
            column = 0
            for part in parts_of(each):
                if part.name is not None:
                    place = Place(product, column, part.outputs, len(numbered))
                    self.places.setdefault(part.name, []).append(place)
                    numbered.append(place)
                column += part.outputs
            product += 1
        kernels = load_kernels() if self.held.grouped else None
        self.additions: Additions = (
            SliceProducts(device) if kernels is None else GroupedProducts(kernels, numbered)
        )

    @contextmanager
    def applied(self, slices: Mapping[int, AdapterSlices], held: list[Any]) -> Iterator[None]:
        """Add within this block.

        Args:
            slices: which rows have which adapter, by how many rows there are: a batch's last layer
                may compute fewer than the others.
            held: the adapters that the slices count.
        """
        self._slices = slices
        self.additions.use(held)
        try:
            yield
        finally:
            self._slices = {}
            self.additions.use([])

    def _hook(self, product: int) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> None:
            if self._slices:
                self._add(product, given[0], out)

        return hook

    def _add(self, product: int, x: torch.Tensor, out: torch.Tensor) -> None:
        if not self.additions.changes(product):
            return
        x, out = x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        first, rows = rows_under_way(len(x))
        slices = self._slices.get(rows)
        if slices is None:
            raise InternalError(
                f"a product of {rows} rows in a batch of {sorted(self._slices)}: an adapter does "
                "not know which are its own"
            )
        self.additions.add(product, x, out, slices, first)
