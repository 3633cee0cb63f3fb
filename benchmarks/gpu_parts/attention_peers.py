"""Attention other ways: torch's kernel per request, and two launches of ours with a merge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.shapes import Shape
from shoal.attention import KVLayer
from shoal.attention.reference import merge


@dataclass(frozen=True)
class Tensors:
    """Random queries, keys and values of a shape.

    Attributes:
        query: [heads, rows, dim].
        shared: keys, values [segments, kv_heads, tokens, dim].
        own: keys, values [requests, kv_heads, tokens, dim].
    """

    query: torch.Tensor
    shared: tuple[torch.Tensor, torch.Tensor]
    own: tuple[torch.Tensor, torch.Tensor]


def torch_per_request(shape: Shape, tensors: Tensors) -> tuple[Callable[[], torch.Tensor], str]:
    """torch's scaled-dot-product attention, each request for itself, and how it is called.

    It has every advantage: a request's keys and values lie gathered, dense and side by side, all
    requests are of equal length, and nothing of that is timed. The call gives [rows, heads, dim].
    """
    heads, rows, dim = tensors.query.shape
    query = tensors.query.view(heads, shape.requests, shape.rows, dim).transpose(0, 1).contiguous()
    keys, values = (
        torch.cat([shared.repeat_interleave(shape.users, dim=0), own], dim=2)
        for shared, own in zip(tensors.shared, tensors.own, strict=True)
    )

    def attend(k: torch.Tensor, v: torch.Tensor, grouped: bool) -> torch.Tensor:
        how: dict[str, Any] = {"enable_gqa": grouped}
        if shape.rows > 1:
            how["attn_mask"] = causal_lower_right(shape.rows, k.shape[2])
        out: torch.Tensor = scaled_dot_product_attention(query, k, v, **how)
        return out.transpose(1, 2).reshape(rows, heads, dim)

    try:
        attend(keys, values, True)
    except RuntimeError:
        group = heads // keys.shape[1]
        keys, values = (t.repeat_interleave(group, dim=1) for t in (keys, values))
        return lambda: attend(keys, values, False), "repeated heads"
    return lambda: attend(keys, values, True), "grouped heads"


class TwoLaunches:
    """Segments in one launch, sequences' own tokens in another, then a merge in torch."""

    def __init__(self, backend: Any, shape: Shape, tensors: Tensors, layer: KVLayer) -> None:
        """`backend`: has `partial`, which returns results and their log-sum-exps in float32."""
        device = tensors.query.device
        self._partial = backend.partial
        self._prepared = [backend.prepare(shape.work(causal), device) for causal in (False, True)]
        self._query, self._layer = tensors.query, layer
        self._scale = tensors.query.shape[-1] ** -0.5

    def launches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Both launches, unmerged."""
        return [self._partial(self._query, self._layer, p, self._scale) for p in self._prepared]

    def __call__(self) -> torch.Tensor:
        """[rows, heads, dim]."""
        (out, lse), (part, part_lse) = self.launches()
        merge(out, lse, part, part_lse)
        return out.to(self._query.dtype)
