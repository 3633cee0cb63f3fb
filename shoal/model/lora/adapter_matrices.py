"""What an adapter has for a linear layer, and where that layer's output is."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch

from shoal.kernels.lora import AdapterSlices


class Place(NamedTuple):
    """Where a linear layer's output is.

    Attributes:
        product: in which product.
        column: from which column of it on.
        outputs: how many columns it has.
        number: which of all such places it is.
    """

    product: int
    column: int
    outputs: int
    number: int


class LinearAdapter(NamedTuple):
    """What one linear layer's output gets: x A^T B^T * scale.

    Attributes:
        a: [rank, inputs].
        b: [outputs, rank].
    """

    place: Place
    a: torch.Tensor
    b: torch.Tensor
    scale: float


class Additions(Protocol):
    """A way to compute what adapters add to a model's products."""

    def hold(self, linears: list[LinearAdapter], dtype: torch.dtype) -> Any:
        """An adapter in memory, ready to be added, in a number format."""

    def use(self, held: list[Any]) -> None:
        """Have these for the batch that comes; `AdapterSlices.adapter` counts them."""

    def changes(self, product: int) -> bool:
        """Whether any of those in use has a part in a product."""

    def add(
        self, product: int, x: torch.Tensor, out: torch.Tensor, slices: AdapterSlices, first: int
    ) -> None:
        """Add to a product's rows.

        Args:
            x: [rows, inputs], what came in.
            out: [rows, outputs], changed in place.
            first: the row of the batch that the first one here is.
        """
