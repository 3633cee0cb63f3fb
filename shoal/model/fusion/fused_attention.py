"""Attention around our kernel: one product for q, k and v, and one pass that norms and rotates what
it gives. On the CPU that pass stores it, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from shoal.attention import AttentionKind
from shoal.attention.native import NativeAttention
from shoal.kernels.ops import HeadNorm, Heads, LayerOps, RotaryOp, Rotation
from shoal.model.fusion.linear import Product, linear_children
from shoal.model.fusion.norm import FusedNorm
from shoal.model.hook import WantedRows, current_step

MAX_HEAD_DIM = 1024


@dataclass(frozen=True)
class AttentionLayer:
    """How an attention module calls its attention function.

    Attributes:
        layer: its index.
        shape: (kv_heads, key_dim, value_dim).
        scale: on the scores.
        kind: what else; its sinks are the module's own parameter.
    """

    layer: int
    shape: tuple[int, int, int]
    scale: float
    kind: AttentionKind


class FusedAttention(nn.Module):
    """Takes the place of a transformers attention module, inside an `attention_step`."""

    def __init__(
        self,
        asked: AttentionLayer,
        heads: Heads,
        qkv: Product,
        out: Product,
        rotation: Rotation,
        *,
        turns: bool = True,
    ) -> None:
        """`turns`: whether positions rotate queries and keys; some layers ignore them."""
        super().__init__()
        self.layer_idx, self._heads, self._asked = asked.layer, heads, asked
        self.qkv, self.out, self._rotation, self._turns = qkv, out, rotation, turns

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        *args: Any,
        add: torch.Tensor | None = None,
        wanted: WantedRows | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """hidden_states: [1, T, hidden]; position_embeddings: two [1, T, rotary_dim]; add: a
        residual [1, T, hidden]. With `wanted`, every row's key and value are stored, but only
        those R rows attend, and `add` and the result have R rows. What else a model hands down
        is about masks and caches."""
        step, heads = current_step(), self._heads
        backend, pool, group = step.kv.backend, step.kv[self.layer_idx], step.of(self.layer_idx)
        # In float32 if the products are, whatever the model's dtype.
        qkv: torch.Tensor = self.qkv(hidden_states.to(self.qkv.held))[0]
        angles = None
        if position_embeddings is not None and self._turns:
            angles = position_embeddings[0][0], position_embeddings[1][0]
        rows, queries = qkv.shape[0], heads.heads * heads.key_dim
        rotation = self._rotation
        if isinstance(backend, NativeAttention) and isinstance(rotation, RotaryOp):
            rotation.set_pool(pool.shape.num_blocks * pool.shape.block_size)
            qkv = rotation(qkv, angles, group.slots, pool.keys, pool.values)
        else:
            qkv = rotation(qkv, angles)
            split = [heads.kv_heads * heads.key_dim, heads.kv_heads * heads.value_dim]
            key, value = torch.split(qkv[:, queries:], split, dim=1)
            backend.store(
                pool,
                group.slots,
                key.view(rows, heads.kv_heads, -1).transpose(0, 1),
                value.view(rows, heads.kv_heads, -1).transpose(0, 1),
            )
        query, prepared = qkv[:, :queries], group.prepared
        scale, kind = self._asked.scale, self._asked.kind
        if wanted is not None:
            query, prepared = query[wanted.rows], group.wanted
        query = query.view(len(query), heads.heads, heads.key_dim).transpose(0, 1)
        if isinstance(backend, NativeAttention):
            attended = backend(query, pool, prepared, scale, kind, out_dtype=self.out.held)
        else:
            attended = backend(query, pool, prepared, scale, kind)
        out: torch.Tensor = self.out(attended.flatten(1)[None], add)
        return out.to((hidden_states if add is None else add).dtype), None


def attention_candidates(
    module: nn.Module,
    asked: AttentionLayer,
    ops: LayerOps,
    held: torch.dtype,
    *,
    pack: bool = True,
) -> Iterator[FusedAttention]:
    """What `module` may be; nothing if it does not look like an attention we know.

    Args:
        asked: how it calls its attention function.
        held, pack: see `Product`.
    """
    qkv = linear_children(module, "q_proj", "k_proj", "v_proj") or linear_children(
        module, "qkv_proj"
    )
    out = linear_children(module, "o_proj") or linear_children(module, "dense")
    kv_heads, key_dim, value_dim = asked.shape
    known, norm = _head_norm(module, key_dim)
    if qkv is None or out is None or not known or key_dim > MAX_HEAD_DIM:
        return
    rest = sum(layer.out_features for layer in qkv) - kv_heads * (key_dim + value_dim)
    heads = Heads(rest // key_dim, kv_heads, key_dim, value_dim)
    if heads.heads * value_dim != out[0].in_features or rest % key_dim:
        return
    into, back = (Product(*layers, held=held, pack=pack) for layers in (qkv, out))
    dtype = out[0].weight.dtype
    for turns, neighbours in ((True, False), (True, True), (False, False)):
        rotation = ops.rotation(heads, dtype, neighbours=neighbours, norm=norm)
        yield FusedAttention(asked, heads, into, back, rotation, turns=turns)


def _head_norm(module: nn.Module, key_dim: int) -> tuple[bool, HeadNorm | None]:
    """Whether the norms of query and key heads are known to us, and which they are."""
    norms = [
        getattr(module, name, None)
        for name in ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "qk_norm")
    ]
    if all(norm is None for norm in norms):
        return True, None
    query, key = norms[:2]
    if not isinstance(query, FusedNorm) or not isinstance(key, FusedNorm):
        return False, None
    if query.weight.shape != (key_dim,) or key.weight.shape != (key_dim,):
        return False, None
    if (query.eps, query.offset) != (key.eps, key.offset):
        return False, None
    return True, HeadNorm(query.weight, key.weight, query.eps, query.offset)
