"""Matrix products in 8 bits (W8A8): weights rounded once at load, inputs row by row as they come.

A weight matrix has one scale per output, an input one per row: the largest number becomes 127. The
products of a row do not depend on the rows beside it, so neither do results on the batch. Sums are
exact, in 32 bits; products come out in float32. The output head, embeddings and gates are left as
they are: they are little work, and choose tokens and experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shoal.kernels import Kernels
from shoal.kernels.ops import ZERO_POINT, QuantizeOp
from shoal.model.fusion.linear import Part, Product, is_plain, parts_of
from shoal.model.fusion.proof import agree, norm_input

TOLERANCE = 0.1
"""Largest relative distance of a product's result on random input. Normally distributed weights
err by 0.011; what errs by more has numbers that are lost beside a far larger one of its output."""

_FEW_OUTPUTS = 16
"""A linear layer of fewer outputs is a gate."""

_ROWS = 256
"""Rows oneDNN is told to expect."""

# Operators torch's own compiler uses; they have no Python wrapper.
_prepack: Any = torch.ops.onednn.qlinear_prepack
_product: Any = torch.ops.onednn.qlinear_pointwise


class Int8Product(nn.Module):
    """x W^T + b, and optionally something added: in the place of a `Product` or a linear layer."""

    held = torch.float32
    """Format of what comes out of the products."""
    parts: tuple[Part, ...] = ()
    """See `parts_of`."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, kernels: Kernels) -> None:
        """weight: [out, in]; bias: [out] or None."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().float()
        # An output without weights has some scale too.
        self._scales = weight.abs().amax(dim=1).clamp_(min=torch.finfo(torch.float32).tiny) / 127
        rounded = (weight / self._scales[:, None]).round_().to(torch.int8)
        self._weight = _prepack(rounded, [_ROWS, self.in_features])
        self._zeros = torch.zeros(self.out_features, dtype=torch.int8)
        self._bias = None if bias is None else bias.detach().float()
        self._quantize = QuantizeOp(kernels)

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """x: [..., in]; add: [..., out] or None; returns [..., out] of the dtype of `add`, or else
        of x."""
        rows, scales = self._quantize(x.reshape(-1, self.in_features))
        # A scale of the whole input is asked for, which is 1: the rows' own are put to it below.
        out: torch.Tensor = _product(
            *(rows, 1.0, ZERO_POINT),
            *(self._weight, self._scales, self._zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        if self._bias is None:
            out.mul_(scales)
        else:
            torch.addcmul(self._bias, out, scales, out=out)
        out = out.view(*x.shape[:-1], self.out_features)
        if add is None:
            return out.to(x.dtype)
        return torch.add(out, add, out=out if add.dtype == out.dtype else torch.empty_like(add))


@dataclass(frozen=True)
class Quantized:
    """What became of a model's weights.

    Attributes:
        products: in 8 bits now.
        refused: names of those that err by more than `TOLERANCE` so, and are left.
        share: of the weights that are multiplied in layers, those in 8 bits.
    """

    products: int
    refused: tuple[str, ...]
    share: float


def quantize(module: nn.Module, head: nn.Module | None, kernels: Kernels) -> Quantized:
    """Replace the products of a model's layers in place, whether they are ours or its own.

    Args:
        module: its `Product`s are not packed yet.
        head: the output head, to be left; None: there is none.
    """
    done, refused = [], []
    for owner_name, owner in list(module.named_modules()):
        for name, child in list(owner.named_children()):
            if child is head or not _multiplies(child):
                continue
            found = Int8Product(child.weight, child.bias, kernels)
            x = norm_input(child.in_features, child.weight)
            if agree(found(x), child(x), TOLERANCE):
                found.parts = parts_of(child)
                setattr(owner, name, found)
                done.append(child.weight.numel())
            else:
                refused.append(f"{owner_name}.{name}")
                if isinstance(child, Product):
                    child.pack()
    left = _weights_left(module, head)
    share = sum(done) / (sum(done) + left) if done else 0.0
    return Quantized(len(done), tuple(refused), share)


def _multiplies(module: nn.Module) -> bool:
    """Whether it is a product of a layer, ours or the model's own."""
    if isinstance(module, Product):
        return True
    return is_plain(module) and module.out_features >= _FEW_OUTPUTS


def _weights_left(module: nn.Module, head: nn.Module | None) -> int:
    """Weights still multiplied in layers as they are."""
    aside = [part for part in module.modules() if isinstance(part, nn.Embedding) or part is head]
    known = {id(weight) for part in aside for weight in part.parameters()}
    own = sum(p.numel() for p in module.parameters() if p.dim() > 1 and id(p) not in known)
    ours = (part for part in module.modules() if isinstance(part, Product))
    return own + sum(product.out_features * product.in_features for product in ours)
