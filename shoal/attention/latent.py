"""Attention over latent vectors (MLA: DeepSeek V2, arXiv 2405.04434), in two equal ways.

The pool holds of a token one latent c of `rank` numbers, and a key part r for all heads. Of query
head h, (n, p), and of its weights U (keys) and W (values):

    absorbed    score = (U^T n, p) (c, r), value = c; W is multiplied with the result;
    expanded    score = (n, p) (U c, r),   value = W c.

The first reads the latent as it lies: one KV head with many query heads. The second makes keys and
values of each token once for all its rows, which then cost less. Which is cheaper depends on how
many rows share a token, and is chosen for each item of a work list (as TyphoonMLA does for a shared
prefix, arXiv 2509.21081). Rows that have items of both kinds get them merged by log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch

from shoal.attention.contract import AttentionBackend, KVLayer, KVShape
from shoal.attention.kind import PLAIN, AttentionKind
from shoal.attention.reference import merge
from shoal.costs import Expanding
from shoal.types import BoolArray, Int64Array
from shoal.work import SegmentWork

EXPANDED_BYTES = 2**28
"""Most that the keys and values of a batch's expanded items may take; others are absorbed."""


class LatentHeads(NamedTuple):
    """(kv_heads, key_dim, value_dim) of a layer that keeps a latent: values lie within keys."""

    kv_heads: int
    key_dim: int
    value_dim: int


class PartialAttention(AttentionBackend, Protocol):
    """A kernel whose results can be merged, and whose keys can be read back."""

    def partial(
        self, query: torch.Tensor, layer: KVLayer, prepared: object, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `__call__`, in float32 [T, heads, value_dim], and its log-sum-exp [T, heads]."""

    def read_keys(self, layer: KVLayer, blocks: torch.Tensor) -> torch.Tensor:
        """The keys of whole blocks, int64 [B]: [kv_heads, B * block_size, key_dim]."""


@dataclass(frozen=True)
class Expansion:
    """What makes a head's keys and values of a latent.

    Attributes:
        key: [heads, n, rank].
        value: [heads, value_dim, rank].
    """

    key: torch.Tensor
    value: torch.Tensor

    def absorb(self, query: torch.Tensor) -> torch.Tensor:
        """[heads, T, n + r] to [heads, T, rank + r]."""
        plain = self.key.shape[1]
        return torch.cat([query[..., :plain] @ self.key, query[..., plain:]], dim=-1)

    def values(self, latents: torch.Tensor) -> torch.Tensor:
        """[T, heads, rank] to [T, heads, value_dim]."""
        return (latents.transpose(0, 1) @ self.value.transpose(1, 2)).transpose(0, 1)

    def expand(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, rank + r] to keys [heads, T, n + r] and values [heads, T, value_dim]."""
        heads, _, rank = self.key.shape
        plain, turned = latents[:, :rank], latents[:, rank:]
        keys = torch.cat(
            [plain @ self.key.transpose(1, 2), turned.expand(heads, *turned.shape)], dim=-1
        )
        return keys, plain @ self.value.transpose(1, 2)

    def crossing(self, rope: int) -> float:
        """Rows from which expanding a token is faster than to absorb it."""
        _, plain, rank = self.key.shape
        way = Expanding.of(1, plain, rope, rank, self.value.shape[1])
        saved = 2 * (2 * rank + rope) - way.pair_flops
        return way.token_flops / saved if saved > 0 else float("inf")


@dataclass(frozen=True)
class _Split:
    """A work list in two, each prepared; None where there is nothing."""

    absorbed: object | None
    expanded: object | None
    blocks: torch.Tensor
    """int64 [B], of the expanded items, in the order of their own pool's."""


class LatentWork:
    """A batch's work list, divided at the first call, when the heads are known."""

    def __init__(self, inner: PartialAttention, work: SegmentWork, device: torch.device) -> None:
        self.work, self._inner, self._device = work, inner, device
        self.whole = inner.prepare(work, device)
        self._splits: dict[tuple[int, float], _Split] = {}
        self._pools: dict[KVShape, KVLayer] = {}

    def split(self, token_bytes: int, least_rows: float) -> _Split:
        """Expand items of at least so many rows, as far as their bytes allow."""
        key = token_bytes, least_rows
        if key not in self._splits:
            self._splits[key] = self._divide(_worth(self.work, least_rows, token_bytes))
        return self._splits[key]

    def pool(self, shape: KVShape) -> KVLayer:
        """Memory for expanded keys and values: each layer writes over those before."""
        if shape not in self._pools:
            self._pools[shape] = self._inner.allocate(shape)
        return self._pools[shape]

    def _divide(self, expanded: BoolArray) -> _Split:
        inner, device, work = self._inner, self._device, self.work
        if not expanded.any():
            return _Split(self.whole, None, torch.zeros(0, dtype=torch.int64))
        blocks = np.unique(
            np.concatenate([_blocks(work, i) for i in np.flatnonzero(expanded).tolist()])
        )
        number = np.zeros(int(work.blocks.max()) + 1, dtype=np.int32)
        number[blocks] = np.arange(len(blocks))
        many = replace(_some(work, expanded), blocks=number[work.blocks])
        few = None if expanded.all() else inner.prepare(_some(work, ~expanded), device)
        return _Split(few, inner.prepare(many, device), torch.from_numpy(blocks).to(device))


class LatentAttention:
    """Both ways, by the kernel of an ordinary backend, which owns the pool's layout."""

    def __init__(self, inner: PartialAttention, least_rows: float | None = None) -> None:
        """`least_rows`: from which an item is expanded; None: what is faster."""
        self.inner, self._least_rows = inner, least_rows
        self.name = f"latent-{inner.name}"

    def allocate(self, shape: KVShape) -> KVLayer:
        """The inner backend's."""
        return self.inner.allocate(shape)

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """key: [1, T, rank + r]; `value` is a part of it."""
        self.inner.store(layer, slots, key, value)

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """See `LatentWork`."""
        return LatentWork(self.inner, work, device)

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        """Of absorbed queries, [heads, T, rank + r], over all items."""
        assert isinstance(prepared, LatentWork)
        return self.inner(query, layer, prepared.whole, scale, kind)

    def attend(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        expansion: Expansion,
    ) -> torch.Tensor:
        """Of the model's own queries, [heads, T, n + r]: [T, heads, value_dim]."""
        assert isinstance(prepared, LatentWork)
        shape = layer.shape
        heads, plain, rank = expansion.key.shape
        key_dim, value_dim = plain + shape.key_dim - rank, expansion.value.shape[1]
        least = self._least_rows
        if least is None:
            least = expansion.crossing(shape.key_dim - rank)
        token_bytes = heads * (key_dim + value_dim) * shape.dtype.itemsize
        split = prepared.split(token_bytes, least)
        if split.expanded is None:
            return expansion.values(self(expansion.absorb(query), layer, prepared, scale))
        latents = self.inner.read_keys(layer, split.blocks)[0]
        pool = prepared.pool(
            replace(
                shape,
                kv_heads=heads,
                key_dim=key_dim,
                value_dim=value_dim,
                num_blocks=len(split.blocks),
                latent=False,
            )
        )
        slots = torch.arange(len(latents), device=latents.device)
        self.inner.store(pool, slots, *expansion.expand(latents))
        if split.absorbed is None:
            return self.inner(query, pool, split.expanded, scale)
        out, lse = self.inner.partial(query, pool, split.expanded, scale)
        part, part_lse = self.inner.partial(expansion.absorb(query), layer, split.absorbed, scale)
        merge(out, lse, expansion.values(part.to(query.dtype)).float(), part_lse)
        return out.to(query.dtype)


def _worth(work: SegmentWork, least_rows: float, token_bytes: int) -> BoolArray:
    """Items of at least so many rows, those of most first, while their tokens fit the bytes."""
    rows = (work.row_last - work.row_first).astype(np.int64)
    order = np.argsort(-rows, kind="stable")
    tokens = -(-work.kv_tokens[order].astype(np.int64) // work.block_size) * work.block_size
    fits = np.cumsum(np.where(rows[order] >= least_rows, tokens, 0)) * token_bytes <= EXPANDED_BYTES
    worth: BoolArray = np.zeros(len(work), dtype=np.bool_)
    worth[order] = fits & (rows[order] >= least_rows) & (tokens > 0)
    return worth


def _blocks(work: SegmentWork, item: int) -> Int64Array:
    first = int(work.block_offsets[item])
    count = -(-int(work.kv_tokens[item]) // work.block_size)
    found: Int64Array = work.blocks[first : first + count].astype(np.int64)
    return found


def _some(work: SegmentWork, kept: BoolArray) -> SegmentWork:
    """Some of the items, of as many rows and blocks."""
    return replace(
        work,
        row_first=work.row_first[kept],
        row_last=work.row_last[kept],
        kv_tokens=work.kv_tokens[kept],
        starts=work.starts[kept],
        causal=work.causal[kept],
        block_offsets=np.append(work.block_offsets[:-1][kept], len(work.blocks)),
    )
