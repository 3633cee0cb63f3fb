"""A decoder layer whose residuals are added by the products that precede them.

The last layer computes only the rows whose logits are wanted: of a prompt, that is one row. Where a
bfloat16 model's products are in float32, what goes from layer to layer can stay in float32: nothing
is rounded and widened again between a product and the next, and the products add the residual.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from shoal.model.fusion.fused_attention import FusedAttention
from shoal.model.fusion.mlp import FusedMLP
from shoal.model.fusion.norm import FusedNorm
from shoal.model.hook import current_step


class FusedLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))"""

    def __init__(
        self, attention: FusedAttention, mlp: nn.Module, norm1: nn.Module, norm2: nn.Module
    ) -> None:
        super().__init__()
        self.is_last = False
        self._takes: torch.dtype | None = None
        self._gives: torch.dtype | None = None
        self.input_layernorm, self.self_attn = norm1, attention
        self.post_attention_layernorm, self.mlp = norm2, mlp

    def forward(
        self,
        hidden_states: torch.Tensor,
        *args: Any,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """hidden_states: [1, T, hidden]; returns the same, or [1, R, hidden] of the rows wanted
        if this is the last layer and the batch says which they are."""
        hidden_states = hidden_states.to(self._takes or hidden_states.dtype)
        wanted = current_step().wanted if self.is_last else None
        add = hidden_states if wanted is None else hidden_states[:, wanted.rows]
        x, _ = self.self_attn(
            self.input_layernorm(hidden_states),
            position_embeddings,
            add=add,
            wanted=wanted,
            position_ids=kwargs.get("position_ids"),
            past_key_values=kwargs.get("past_key_values"),
        )
        normed = self.post_attention_layernorm(x)
        out: torch.Tensor
        if isinstance(self.mlp, FusedMLP):
            out = self.mlp(normed, x)
        else:
            given = self.mlp(normed)
            # Some routers give what they chose, too (gpt-oss).
            out = x + (given[0] if isinstance(given, tuple) else given)
        return out.to(self._gives or out.dtype)

    @property
    def can_widen(self) -> bool:
        """Whether it can work on float32: its products are in float32, all parts are ours, and
        the model is in bfloat16."""
        norms = self.input_layernorm, self.post_attention_layernorm
        if not all(isinstance(norm, FusedNorm) and norm.is_narrow for norm in norms):
            return False
        if not isinstance(self.mlp, FusedMLP):
            return False
        return self.self_attn.qkv.held == self.mlp.gate_up.held == torch.float32


def widen(layers: Sequence[FusedLayer], gives: torch.dtype) -> None:
    """Let hidden states be float32 from the first of a model's layers to the last, which gives
    `gives` again."""
    for layer in layers:
        layer._takes, layer._gives = torch.float32, None
    layers[-1]._gives = gives


def narrow(layers: Sequence[FusedLayer]) -> None:
    """Take `widen` back."""
    for layer in layers:
        layer._takes = layer._gives = None


def fused_layers(module: nn.Module) -> list[FusedLayer]:
    """A model's fused layers in order of their index."""
    found = [layer for layer in module.modules() if isinstance(layer, FusedLayer)]
    return sorted(found, key=lambda layer: layer.self_attn.layer_idx)


def layer_candidates(module: nn.Module) -> Iterator[FusedLayer]:
    """What `module` may be if it is a layer of two norms, attention and MLP."""
    names = "self_attn", "mlp", "input_layernorm", "post_attention_layernorm"
    attention, mlp, norm1, norm2 = (getattr(module, name, None) for name in names)
    parts = [part for part in (mlp, norm1, norm2) if isinstance(part, nn.Module)]
    if isinstance(attention, FusedAttention) and len(parts) == 3:
        yield FusedLayer(attention, *parts)
