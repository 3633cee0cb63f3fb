"""What some attention modules do beside norms, rotation and attention, in modules we know."""

from __future__ import annotations

import sys
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

QueryScale = Callable[[int, dict[str, Any]], torch.Tensor]
"""Factors [T] on the queries of T rows, of what the module was called with."""


@dataclass(frozen=True)
class AttentionExtras:
    """Of one module.

    Attributes:
        query_scale: its queries are multiplied by what depends on their positions.
        value_eps: its value heads are normed, without weights, by this.
        kept_as: other layers reuse its keys and values, under this name.
    """

    query_scale: QueryScale | None = None
    value_eps: float | None = None
    kept_as: str | None = None

    @classmethod
    def of(cls, module: Any) -> AttentionExtras:
        """Those of a module of transformers'."""
        norm = getattr(module, "v_norm", None)
        eps = getattr(norm, "eps", None)
        plain = isinstance(norm, nn.Module) and not list(norm.parameters())
        kept = getattr(module, "store_full_length_kv", False)
        return cls(
            query_scale=_query_scale(module),
            value_eps=eps if plain else None,
            kept_as=module.layer_type if kept else None,
        )

    def norm_values(self, values: torch.Tensor) -> None:
        """Norm value heads [T, kv_heads, dim] in place, if they are to be."""
        if self.value_eps is not None:
            wide = values.float()
            values.copy_(wide * (wide.square().mean(-1, keepdim=True) + self.value_eps).rsqrt())

    def scale_queries(self, queries: torch.Tensor, keywords: dict[str, Any]) -> None:
        """Scale queries [T, heads * dim] in place, if they are to be."""
        if self.query_scale is not None:
            factors = self.query_scale(len(queries), keywords)
            queries *= factors[:, None].to(queries.dtype)

    def keep(self, key: torch.Tensor, value: torch.Tensor, keywords: dict[str, Any]) -> None:
        """Hand keys and values [kv_heads, T, dim] to the layers that reuse them."""
        shared: MutableMapping[str, Any] | None = keywords.get("shared_kv_states")
        if self.kept_as is not None and shared is not None:
            shared[self.kept_as] = key[None], value[None]


def _query_scale(module: Any) -> QueryScale | None:
    if getattr(module, "attn_temperature_tuning", False) and not getattr(module, "use_rope", True):
        return _by_floor(module)
    own = getattr(sys.modules[type(module).__module__], "get_llama_4_attn_scale", None)
    rope = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    beta, original = (
        rope.get("llama_4_scaling_beta"),
        rope.get("original_max_position_embeddings"),
    )
    if own is None or beta is None or original is None:
        return None

    def scale(rows: int, keywords: dict[str, Any]) -> torch.Tensor:
        found: torch.Tensor = own(keywords["position_ids"], beta, original)
        return found.reshape(rows)

    return scale


def _by_floor(module: Any) -> QueryScale:
    """Llama 4, which asks its cache where its rows stand (`shoal.model.packed_cache`)."""
    layer, floor, factor = module.layer_idx, module.floor_scale, module.attn_scale

    def scale(rows: int, keywords: dict[str, Any]) -> torch.Tensor:
        before = keywords["past_key_values"].get_seq_length(layer)
        positions = torch.arange(rows, device=before.device) + before
        steps = torch.floor((positions.float() + 1.0) / floor)
        found: torch.Tensor = torch.log1p(steps) * factor + 1.0
        return found

    return scale
