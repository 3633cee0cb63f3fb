"""The contract every segment attention kernel keeps.

For a query row q and a segment s of keys K_s and values V_s, with scores z_s = scale * K_s q:

    l_s = logsumexp(z_s)        (natural logarithm)
    o_s = softmax(z_s) V_s

A layer may soften its scores first, z = softcap * tanh(z / softcap), and hide the keys that lie
further back than its window (`AttentionKind`). Over all segments S of the row, merged in float32:

    l = logsumexp_s(l_s),  o = sum_s exp(l_s - l) * o_s

A head's sink, if there is one, is one more l_s in l, once per row, without an o_s. This equals
attention over the concatenation of the segments (Juravsky et al., Hydragen, 2024; BatchLLM, MLSys
2026). A segment of no visible tokens has l_s = -inf and adds nothing; a row with no keys at all
gives zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from shoal.attention.kind import PLAIN, AttentionKind
from shoal.work import SegmentWork


@dataclass(frozen=True)
class KVShape:
    """One layer's part of the KV pool: how large, and in which numbers.

    Attributes:
        latent: a token's value is the first `value_dim` numbers of its key, and not stored again.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    num_blocks: int
    block_size: int
    dtype: torch.dtype
    device: torch.device
    latent: bool = False


@dataclass(frozen=True)
class KVLayer:
    """One layer's keys and values, laid out as the backend that allocated them wants them."""

    shape: KVShape
    keys: torch.Tensor
    values: torch.Tensor


class AttentionBackend(Protocol):
    """A kernel and its layout of the KV pool.

    `allocate` once per layer; `prepare` once per token batch; then `store` and a call per layer.
    """

    name: str

    def allocate(self, shape: KVShape) -> KVLayer:
        """Zeroed memory for a layer's keys and values."""

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Write T rows into the pool. The slots of a block are filled in order.

        Args:
            slots: int64 [T], all different; slot = block * block_size + offset.
            key: [kv_heads, T, key_dim].
            value: [kv_heads, T, value_dim].
        """

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """Whatever the kernel derives from the work list; passed back to `__call__`."""

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        """Attention of all rows over all their segments.

        Args:
            query: [heads, T, key_dim] in the pool's dtype; heads is a multiple of kv_heads, and
                query head h reads KV head h // (heads // kv_heads).
            layer: the pool of this layer, with every token of `prepared`'s segments stored.
            prepared: what `prepare` returned for this batch.
            scale: factor on the scores, above 0.
            kind: what else the layer asks for.

        Returns:
            [T, heads, value_dim] in the query's dtype.
        """


class PlainPool:
    """Keys [kv_heads, slots, key_dim], values [kv_heads, slots, value_dim]: as torch likes them.

    Values of a latent layer are a view of its keys.
    """

    def allocate(self, shape: KVShape) -> KVLayer:
        """Zeros, all blocks one after another."""
        slots = shape.num_blocks * shape.block_size
        dims = shape.key_dim, 0 if shape.latent else shape.value_dim
        keys, values = (
            torch.zeros(shape.kv_heads, slots, dim, dtype=shape.dtype, device=shape.device)
            for dim in dims
        )
        return KVLayer(shape, keys, keys[..., : shape.value_dim] if shape.latent else values)

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """One indexed copy for the keys, one for the values."""
        layer.keys.index_copy_(1, slots, key)
        if not layer.shape.latent:
            layer.values.index_copy_(1, slots, value)

    def read_keys(self, layer: KVLayer, blocks: torch.Tensor) -> torch.Tensor:
        """The keys of whole blocks, int64 [B]: [kv_heads, B * block_size, key_dim]."""
        shape = layer.shape
        by_block = layer.keys.view(shape.kv_heads, shape.num_blocks, shape.block_size, -1)
        return by_block[:, blocks].flatten(1, 2)
