"""A decoder layer whose residuals are added by the products that precede them.

The last layer computes only the rows whose logits are wanted: of a prompt, that is one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from shoal.engine.fusion.attention import FusedAttention
from shoal.engine.fusion.mlp import FusedMLP
from shoal.engine.hook import current_step


class FusedLayer(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))"""

    def __init__(
        self, attention: FusedAttention, mlp: nn.Module, norm1: nn.Module, norm2: nn.Module
    ) -> None:
        super().__init__()
        self.is_last = False
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
        wanted = current_step().wanted if self.is_last else None
        add = hidden_states if wanted is None else hidden_states[:, wanted.rows]
        x, _ = self.self_attn(
            self.input_layernorm(hidden_states), position_embeddings, add=add, wanted=wanted
        )
        normed = self.post_attention_layernorm(x)
        out: torch.Tensor = (
            self.mlp(normed, x) if isinstance(self.mlp, FusedMLP) else x + self.mlp(normed)
        )
        return out


def layer_candidates(module: nn.Module) -> Iterator[FusedLayer]:
    """What `module` may be if it is a layer of two norms, attention and MLP."""
    names = "self_attn", "mlp", "input_layernorm", "post_attention_layernorm"
    attention, mlp, norm1, norm2 = (getattr(module, name, None) for name in names)
    parts = [part for part in (mlp, norm1, norm2) if isinstance(part, nn.Module)]
    if isinstance(attention, FusedAttention) and len(parts) == 3:
        yield FusedLayer(attention, *parts)
