"""Matrix products with weights laid out once, at load, as the processor's units want them."""

from __future__ import annotations

from typing import NamedTuple, TypeGuard

import torch
from torch import nn
from torch.nn import functional

from shoal.kernels import Kernels
from shoal.model.fusion.packed import PackedWeight, pack_weight


class Part(NamedTuple):
    """A linear layer within a product.

    Attributes:
        name: in the model's class, see `name_linears`; None where it was not named.
    """

    name: str | None
    outputs: int


def name_linears(module: nn.Module) -> None:
    """Have the linear layers of a model know their names, before anything is fused."""
    for name, layer in module.named_modules():
        if type(layer) is nn.Linear:
            layer.name_in_model = name


def parts_of(module: nn.Module) -> tuple[Part, ...]:
    """The linear layers whose outputs a product has, side by side; none of another module."""
    if type(module) is nn.Linear:
        return (Part(getattr(module, "name_in_model", None), module.out_features),)
    parts: tuple[Part, ...] = getattr(module, "parts", ())
    return parts


BLOCK_OUTPUTS = 8192
"""Outputs of a block of a `BlockedProduct`: 8 MiB of float32 results at 256 rows."""


def can_pack(dtype: torch.dtype, held: torch.dtype) -> bool:
    """Whether packing weights of `dtype`, held as `held`, pays.

    In bfloat16 where oneDNN has products for this processor, and in what stands in for it.
    """
    if dtype != torch.bfloat16:
        return False
    return held == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Product(nn.Module):
    """x W^T + b, and optionally something added, of one or several linear layers side by side."""

    def __init__(
        self, *layers: nn.Linear, held: torch.dtype | None = None, pack: bool = True
    ) -> None:
        """All `layers` take the same input; their outputs follow each other.

        Args:
            held: format of the weights in memory and of the products; None: the layers' own.
            pack: False: weights stay as they are until `pack` is called, and products are slow.
        """
        super().__init__()
        self.parts = tuple(part for layer in layers for part in parts_of(layer))
        weights = [layer.weight.detach() for layer in layers]
        self.held = weights[0].dtype if held is None else held
        # Not a parameter: a packed weight is opaque, and of a shared one this is only a view.
        self.weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.out_features, self.in_features = self.weight.shape
        bias = _joined_bias(layers)
        self.bias = None if bias is None else bias.to(self.held)
        self.packed: PackedWeight | None = None
        if pack:
            self.pack()

    def pack(self) -> None:
        """Lay the weights out for the processor, in the format they are to be held in."""
        packs = can_pack(self.weight.dtype, self.held)
        self.weight = self.weight.to(self.held)
        if packs:
            self.packed = pack_weight(self.weight)
            del self.weight

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """x: [..., in]; add: [..., out] or None; returns [..., out] of the dtype of `add`, or else
        of x."""
        if self.packed is None:
            out = functional.linear(x.to(self.held), self.weight.to(self.held), self.bias)
        elif add is not None and add.dtype == self.held:
            return self.packed(x.to(self.held), self.bias, add)
        else:
            out = self.packed(x.to(self.held), self.bias, None)
        if add is None:
            return out.to(x.dtype)
        # One pass adds and rounds, once.
        return torch.add(out, add, out=out if add.dtype == out.dtype else torch.empty_like(add))


class BlockedProduct(nn.Module):
    """x W^T + b of one layer with very many outputs, computed a block of outputs at a time.

    For weights held in a wider format than the model's: a block's results are rounded while they
    are in the cache, and the wide results are never in memory together. For 256 rows of a
    vocabulary of 151,936 they would be 156 MB, mapped anew by every step (docs/lab-notes.md).
    """

    def __init__(self, layer: nn.Linear, held: torch.dtype, kernels: Kernels | None) -> None:
        """`kernels`: ask for huge pages for what is returned; None: nobody does."""
        super().__init__()
        self.parts = parts_of(layer)
        self._held, self._out_features, self._kernels = held, layer.out_features, kernels
        self.blocks = nn.ModuleList(
            Product(_outputs(layer, first, first + BLOCK_OUTPUTS), held=held)
            for first in range(0, layer.out_features, BLOCK_OUTPUTS)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in]; returns [..., out] of the same dtype."""
        out = x.new_empty(*x.shape[:-1], self._out_features)
        if self._kernels is not None:
            self._kernels.lib.shoal_use_huge_pages(out.data_ptr(), out.nbytes)
        wide = x.to(self._held)
        for block, part in zip(self.blocks, torch.split(out, BLOCK_OUTPUTS, dim=-1), strict=True):
            part.copy_(block(wide))
        return out


def product_of(layer: nn.Linear, held: torch.dtype, kernels: Kernels | None) -> nn.Module:
    """What computes `layer` with weights held as `held`."""
    if held != layer.weight.dtype and layer.out_features > 2 * BLOCK_OUTPUTS:
        return BlockedProduct(layer, held, kernels)
    return Product(layer, held=held)


def _outputs(layer: nn.Linear, first: int, last: int) -> nn.Linear:
    """A layer of some of the outputs; its weights are a view."""
    weight = layer.weight.detach()[first:last]
    part = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        part.bias = nn.Parameter(layer.bias.detach()[first:last], requires_grad=False)
    return part


def _joined_bias(layers: tuple[nn.Linear, ...]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return torch.cat(parts)


def is_plain(module: object) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer whose product is that of its weight alone.

    Quantizers keep torch's class, and put a weight of their own into it, or a forward that rounds
    what comes in.
    """
    return (
        type(module) is nn.Linear
        and type(module.weight.data) is torch.Tensor
        and module.weight.is_floating_point()
        and "forward" not in vars(module)
    )


def linear_children(module: nn.Module, *names: str) -> list[nn.Linear] | None:
    """The children of these names; None unless all are plain linear layers."""
    found = [getattr(module, name, None) for name in names]
    layers = [child for child in found if is_plain(child)]
    return layers if len(layers) == len(names) else None
