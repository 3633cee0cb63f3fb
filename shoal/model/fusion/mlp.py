"""A gated MLP: one product for gate and up, the activation in one pass, the product down.

On the CPU many rows are computed a block at a time, so that what lies between the products stays
small.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from shoal.kernels.ops import Activation, LayerOps, RowOp
from shoal.model.fusion.linear import Product, linear_children
from shoal.model.fusion.row_block import row_block

BLOCK_BYTES = 16 << 20
"""Of the gates and ups of a block of rows. glibc gives memory back to the system when more than 32
MiB are freed, and every layer would have its pages mapped and cleared anew (docs/lab-notes.md)."""

LEAST_ROWS = 256
"""Rows of a block at least: with fewer the products become slow."""


class FusedMLP(nn.Module):
    """down(activation(gate(x)) * up(x))"""

    def __init__(self, gate_up: Product, down: Product, gated: RowOp) -> None:
        super().__init__()
        self.gate_up, self.down, self._gated = gate_up, down, gated
        row_bytes = gate_up.out_features * gate_up.held.itemsize
        self.block_rows = max(LEAST_ROWS, BLOCK_BYTES // row_bytes)

    def forward(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """x: [..., rows, hidden]; add: a residual [..., rows, hidden] or None."""
        blocks = -(-x.shape[-2] // self.block_rows) if x.is_cpu else 1
        if blocks <= 1:
            return self._block(x, add)
        adds = [None] * blocks if add is None else add.tensor_split(blocks, dim=-2)
        done, first = [], 0
        for some, added in zip(x.tensor_split(blocks, dim=-2), adds, strict=True):
            with row_block(first, x.shape[-2]):
                done.append(self._block(some, added))
            first += some.shape[-2]
        return torch.cat(done, dim=-2)

    def _block(self, x: torch.Tensor, add: torch.Tensor | None) -> torch.Tensor:
        # Between the products numbers keep the format the products are in.
        gate_up = self.gate_up(x.to(self.gate_up.held))
        out: torch.Tensor = self.down(self._gated(gate_up), add)
        return out.to(x.dtype)


def mlp_candidates(
    module: nn.Module, ops: LayerOps, held: torch.dtype, *, pack: bool = True
) -> Iterator[FusedMLP]:
    """What `module` may be if it is a gated MLP; nothing if it does not look like one.

    `held`, `pack`: see `Product`.
    """
    gate_up = linear_children(module, "gate_proj", "up_proj") or linear_children(
        module, "gate_up_proj"
    )
    down = linear_children(module, "down_proj")
    act = getattr(module, "act_fn", getattr(module, "activation_fn", None))
    if gate_up is None or down is None:
        return
    activation = _activation(act, down[0].weight.device)
    if activation is None:
        return
    gated = ops.gated(activation, held)
    if sum(layer.out_features for layer in gate_up) == 2 * down[0].in_features:
        into, back = (Product(*layers, held=held, pack=pack) for layers in (gate_up, down))
        yield FusedMLP(into, back, gated)


def _activation(function: object, device: torch.device) -> Activation | None:
    """Ours that computes the same, compared in float32: GELU's two forms differ by 5e-4."""
    if not callable(function):
        return None
    x = torch.linspace(-10, 10, 1001, device=device)
    found = function(x)
    for activation, ours in (
        (Activation.silu, functional.silu(x)),
        (Activation.gelu_tanh, functional.gelu(x, approximate="tanh")),
    ):
        if isinstance(found, torch.Tensor) and torch.allclose(found, ours, rtol=0, atol=2e-6):
            return activation
    return None
