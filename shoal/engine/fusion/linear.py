"""Matrix products with weights laid out once, at load, as the processor's units want them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

_ROWS = 256
"""Rows oneDNN is told to expect; the layout it chooses hardly depends on it."""

# Operators torch's own compiler uses; they have no Python wrapper.
_reorder: Any = torch.ops.mkldnn._reorder_linear_weight.default
_product: Any = torch.ops.mkldnn._linear_pointwise.default
_product_and: Any = torch.ops.mkldnn._linear_pointwise.binary


def can_pack(dtype: torch.dtype, held: torch.dtype) -> bool:
    """Whether packing weights of `dtype`, held as `held`, pays.

    In bfloat16 where oneDNN has products for this processor, and in what stands in for it.
    """
    if dtype != torch.bfloat16:
        return False
    return held == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Product(nn.Module):
    """x W^T + b, and optionally something added, of one or several linear layers side by side."""

    def __init__(self, *layers: nn.Linear, held: torch.dtype | None = None) -> None:
        """All `layers` take the same input; their outputs follow each other.

        Args:
            held: format of the weights in memory and of the products; None: the layers' own.
        """
        super().__init__()
        weights = [layer.weight.detach() for layer in layers]
        dtype = weights[0].dtype
        self.held = dtype if held is None else held
        weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.in_features, self.out_features = weight.shape[1], weight.shape[0]
        bias = _joined_bias(layers)
        self.bias = None if bias is None else bias.to(self.held)
        self.packed = can_pack(dtype, self.held)
        # Not a parameter: a packed weight is opaque, and of a shared one this is only a view.
        weight = weight.to(self.held)
        self.weight = _reorder(weight, _ROWS) if self.packed else weight

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """x: [..., in]; add: [..., out] or None; returns [..., out] of the dtype of `add`, or else
        of x."""
        out: torch.Tensor
        if not self.packed:
            out = functional.linear(x.to(self.held), self.weight, self.bias)
        elif add is not None and x.dtype == add.dtype == self.held:
            out = _product_and(x, add, self.weight, self.bias, "add")
            return out
        else:
            out = _product(x.to(self.held), self.weight, self.bias, "none", [], "")
        if add is None:
            return out.to(x.dtype)
        # One pass adds and rounds, once.
        return torch.add(out, add, out=out if add.dtype == out.dtype else torch.empty_like(add))


def _joined_bias(layers: tuple[nn.Linear, ...]) -> torch.Tensor | None:
    if all(layer.bias is None for layer in layers):
        return None
    parts = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    return torch.cat(parts)


def linear_children(module: nn.Module, *names: str) -> list[nn.Linear] | None:
    """The children of these names; None unless all are plain linear layers."""
    found = [getattr(module, name, None) for name in names]
    layers = [child for child in found if type(child) is nn.Linear]
    return layers if len(layers) == len(names) else None
