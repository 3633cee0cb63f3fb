"""Attention around our kernel: one product for q, k and v, and one pass that norms and rotates what
it gives. On the CPU that pass stores it, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from shoal.attention import AttentionKind
from shoal.attention.native import NativeAttention
from shoal.kernels.ops import HeadNorm, Heads, LayerOps, RotaryOp, Rotation
from shoal.model.fusion.angles import Embeddings, Tables, angles_of
from shoal.model.fusion.attention_extras import AttentionExtras
from shoal.model.fusion.linear import Product, linear_children
from shoal.model.fusion.norm import FusedNorm
from shoal.model.hook import AttentionStep, WantedRows, current_step

MAX_HEAD_DIM = 1024


@dataclass(frozen=True)
class AttentionLayer:
    """How an attention module calls its attention function.

    Attributes:
        layer: its index.
        shape: (kv_heads, key_dim, value_dim).
        scale: on the scores.
        kind: what else; its sinks are the module's own parameter.
        extras: what the module does besides.
        table: width of the tables of angles it is handed; None: unknown.
    """

    layer: int
    shape: tuple[int, int, int]
    scale: float
    kind: AttentionKind
    extras: AttentionExtras = field(default_factory=AttentionExtras)
    table: int | None = None


class Turning(NamedTuple):
    """How positions rotate queries and keys; some layers ignore them."""

    turns: bool
    neighbours: bool
    tables: Tables = Tables.each

    def fits(self, table: int | None, key_dim: int) -> bool:
        """Whether tables of so many numbers can be meant so for heads of so many."""
        if not self.turns:
            return True
        if table is None:
            return self.tables is Tables.each
        width = 2 * table if self.tables is Tables.pairs else table
        return width <= key_dim and width % 2 == 0


TURNINGS = (
    Turning(turns=True, neighbours=False),
    Turning(turns=True, neighbours=True),
    Turning(turns=False, neighbours=False),
    Turning(turns=True, neighbours=True, tables=Tables.first_half),
    Turning(turns=True, neighbours=False, tables=Tables.pairs),
    Turning(turns=True, neighbours=True, tables=Tables.pairs),
)


class FusedAttention(nn.Module):
    """Takes the place of a transformers attention module, inside an `attention_step`."""

    def __init__(
        self,
        asked: AttentionLayer,
        heads: Heads,
        qkv: Product,
        out: Product,
        rotation: Rotation,
        turning: Turning,
    ) -> None:
        super().__init__()
        self.layer_idx, self._heads, self._asked = asked.layer, heads, asked
        self.qkv, self.out, self._rotation, self._turning = qkv, out, rotation, turning

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: Embeddings | None = None,
        *args: Any,
        add: torch.Tensor | None = None,
        wanted: WantedRows | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """hidden_states: [1, T, hidden]; position_embeddings: see `angles_of`; add: a residual
        [1, T, hidden]. With `wanted`, every row's key and value are stored, but only those R rows
        attend, and `add` and the result have R rows. What else a model hands down is about masks,
        caches and positions."""
        step, heads = current_step(), self._heads
        backend, pool, group = step.kv.backend, step.kv[self.layer_idx], step.of(self.layer_idx)
        query, key, value = self._stored(hidden_states, position_embeddings, step)
        extras = self._asked.extras
        extras.scale_queries(query, kwargs)
        extras.keep(key, value, kwargs)
        prepared, scale, kind = group.prepared, self._asked.scale, self._asked.kind
        if wanted is not None:
            query, prepared = query[wanted.rows], group.wanted
        query = query.view(len(query), heads.heads, heads.key_dim).transpose(0, 1)
        if isinstance(backend, NativeAttention):
            attended = backend(query, pool, prepared, scale, kind, out_dtype=self.out.held)
        else:
            attended = backend(query, pool, prepared, scale, kind)
        out: torch.Tensor = self.out(attended.flatten(1)[None], add)
        return out.to((hidden_states if add is None else add).dtype), None

    def _stored(
        self, hidden_states: torch.Tensor, embeddings: Embeddings | None, step: AttentionStep
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [T, heads * dim], keys and values [kv_heads, T, dim]; these are in the pool."""
        backend, pool = step.kv.backend, step.kv[self.layer_idx]
        slots, rotation = step.of(self.layer_idx).slots, self._rotation
        # In float32 if the products are, whatever the model's dtype.
        qkv: torch.Tensor = self.qkv(hidden_states.to(self.qkv.held))[0]
        self._asked.extras.norm_values(self._split(qkv)[2].transpose(0, 1))
        angles, turning = None, self._turning
        if embeddings is not None and turning.turns:
            angles = angles_of(embeddings, turning.tables, neighbours=turning.neighbours)
        if isinstance(backend, NativeAttention) and isinstance(rotation, RotaryOp):
            rotation.set_pool(pool.shape.num_blocks * pool.shape.block_size)
            return self._split(rotation(qkv, angles, slots, pool.keys, pool.values))
        query, key, value = self._split(rotation(qkv, angles))
        backend.store(pool, slots, key, value)
        return query, key, value

    def _split(self, qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of a product's results [T, width]."""
        heads = self._heads
        sizes = heads.heads * heads.key_dim, heads.kv_heads * heads.key_dim
        query, key, value = torch.split(qkv, [*sizes, heads.kv_heads * heads.value_dim], dim=1)
        key, value = (x.view(len(qkv), heads.kv_heads, -1).transpose(0, 1) for x in (key, value))
        return query, key, value


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
    if getattr(module, "use_alternative_attention", False):
        # Gemma 4's values are its keys before norm and rotation.
        qkv = linear_children(module, "q_proj", "k_proj", "k_proj")
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
    for turning in (each for each in TURNINGS if each.fits(asked.table, key_dim)):
        rotation = ops.rotation(heads, dtype, neighbours=turning.neighbours, norm=norm)
        yield FusedAttention(asked, heads, into, back, rotation, turning)


def _head_norm(module: nn.Module, key_dim: int) -> tuple[bool, HeadNorm | None]:
    """Whether the norms of query and key heads are known to us, and which they are."""
    norms = [
        getattr(module, name, None)
        for name in ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "qk_norm")
    ]
    if all(norm is None for norm in norms):
        return True, None
    if all(norm is None for norm in norms[:4]):
        return _plain_norm(norms[4], module, key_dim)
    query, key = norms[:2]
    if not isinstance(query, FusedNorm) or not isinstance(key, FusedNorm):
        return False, None
    if query.weight.shape != (key_dim,) or key.weight.shape != (key_dim,):
        return False, None
    if (query.eps, query.offset) != (key.eps, key.offset):
        return False, None
    return True, HeadNorm(query.weight, key.weight, query.eps, query.offset)


def _plain_norm(norm: Any, module: Any, key_dim: int) -> tuple[bool, HeadNorm | None]:
    """One norm without weights for both (Llama 4): lengths do not change by rotation."""
    eps = getattr(norm, "eps", None)
    if not isinstance(eps, float) or list(norm.parameters()):
        return False, None
    ones = module.q_proj.weight.new_ones(key_dim)
    return True, HeadNorm(ones, ones, eps, 0.0)
