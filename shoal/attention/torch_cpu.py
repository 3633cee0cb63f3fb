"""Segment attention on the CPU from torch's own flash kernel, which returns log-sum-exps.

Shared segments become one dense product each: all rows that use it, the query heads of a KV
group folded into the rows. Decoding rows are padded into a few buckets of like length. What torch
cannot do (read KV in place from scattered blocks) costs a gather per item and layer. Windows and
soft-capping it cannot do either: layers that ask for them follow the definition.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from shoal.attention.contract import KVLayer, PlainPool
from shoal.attention.kind import PLAIN, AttentionKind
from shoal.attention.reference import add_sinks, attend, merge
from shoal.types import Int64Array
from shoal.work import SegmentWork

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@dataclass(frozen=True)
class _Keys:
    """Where an item's keys are: one run of slots where its blocks are neighbours, else a list."""

    run: slice | None
    slots: torch.Tensor | None

    def of(self, pool: torch.Tensor) -> torch.Tensor:
        """[kv_heads, tokens, dim]; a view for a run."""
        if self.slots is not None:
            return pool.index_select(1, self.slots)
        return pool[:, self.run]


@dataclass(frozen=True)
class _Rows:
    """Rows [first, last) attending to some keys, all of them or causally to the same number."""

    first: int
    last: int
    keys: _Keys


@dataclass(frozen=True)
class _Bucket:
    """n single rows, each with its own keys, padded to the longest."""

    rows: torch.Tensor
    """int64 [n]"""
    slots: torch.Tensor
    """int64 [n * tokens]"""
    mask: torch.Tensor
    """float32 [n, 1, 1, tokens], 0 or -inf."""


@dataclass(frozen=True)
class _Prepared:
    work: SegmentWork
    buckets: list[_Bucket]
    causal: list[_Rows]
    whole: list[_Rows]


class TorchCpuAttention(PlainPool):
    """Segment attention in plain torch. Every row must have exactly one causal item, its own."""

    name = "torch-cpu"

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """Sort the items into dense products and padded buckets."""
        causal: list[_Rows] = []
        whole: list[_Rows] = []
        single = work.causal & (work.row_last - work.row_first == 1)
        for item in np.flatnonzero(~single).tolist():
            first, last = int(work.row_first[item]), int(work.row_last[item])
            tokens, rows = int(work.kv_tokens[item]), last - first
            if work.causal[item]:
                causal.append(_Rows(first, last, _keys(work.slots(item, tokens - rows))))
                tokens -= rows
            if tokens > 0 and rows > 0:
                whole.append(_Rows(first, last, _keys(work.slots(item, 0, tokens))))
        buckets = _buckets(work, np.flatnonzero(single))
        return _Prepared(work, buckets, causal, whole)

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        """Buckets of single rows, then chunks and whole segments, merged by log-sum-exp."""
        keys, values = layer.keys, layer.values
        assert isinstance(prepared, _Prepared)
        if kind.softcap is not None or prepared.work.hides(kind.sight):
            return attend(query, layer, prepared.work, scale, kind)
        heads, _, dim = query.shape
        kv_heads = keys.shape[0]
        grouped = query.view(kv_heads, heads // kv_heads, -1, dim)
        out = query.new_empty(*grouped.shape, dtype=torch.float32)
        lse = query.new_empty(grouped.shape[:3], dtype=torch.float32)
        for bucket in prepared.buckets:
            part, part_lse = _decode(grouped, keys, values, bucket, scale)
            out[:, :, bucket.rows], lse[:, :, bucket.rows] = part.float(), part_lse
        for rows in prepared.causal:
            part, part_lse = _causal(grouped, keys, values, rows, scale)
            out[:, :, rows.first : rows.last] = part
            lse[:, :, rows.first : rows.last] = part_lse
        for rows in prepared.whole:
            part, part_lse = _whole(grouped, keys, values, rows, scale)
            at = slice(rows.first, rows.last)
            merge(out[:, :, at], lse[:, :, at], part.float(), part_lse)
        whole = out.view(heads, -1, dim)
        if kind.sinks is not None:
            add_sinks(whole, lse.view(heads, -1), kind.sinks)
        return whole.transpose(0, 1).to(query.dtype)


def _decode(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bucket: _Bucket, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    n, dim = len(bucket.rows), query.shape[-1]
    q = query[:, :, bucket.rows].permute(2, 0, 1, 3)
    k = keys.index_select(1, bucket.slots).view(len(keys), n, -1, dim).transpose(0, 1)
    v = values.index_select(1, bucket.slots).view(len(keys), n, -1, dim).transpose(0, 1)
    mask = bucket.mask.to(q.dtype)
    out, lse = _flash(q.contiguous(), k, v, attn_mask=mask, scale=scale)
    return out.permute(1, 2, 0, 3), lse.permute(1, 2, 0)


def _causal(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: _Rows, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    q = query[:, :, rows.first : rows.last]
    group = q.shape[1]
    k = rows.keys.of(keys)[:, None].expand(-1, group, -1, -1)
    v = rows.keys.of(values)[:, None].expand(-1, group, -1, -1)
    out, lse = _flash(q, k, v, is_causal=True, scale=scale)
    return out, lse


def _whole(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rows: _Rows, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    q = query[:, :, rows.first : rows.last]
    folded = q.reshape(1, q.shape[0], -1, q.shape[3])
    k, v = rows.keys.of(keys)[None], rows.keys.of(values)[None]
    out, lse = _flash(folded, k, v, scale=scale)
    return out.view(q.shape), lse.view(q.shape[:3])


def _keys(slots: Int64Array) -> _Keys:
    if slots[-1] - slots[0] == len(slots) - 1 and bool((np.diff(slots) == 1).all()):
        return _Keys(slice(int(slots[0]), int(slots[-1]) + 1), None)
    return _Keys(None, torch.from_numpy(slots))


def _buckets(work: SegmentWork, items: Int64Array) -> list[_Bucket]:
    """Group single rows so that padding stays below a third of what is read."""
    items = items[np.argsort(-work.kv_tokens[items], kind="stable")]
    lengths = work.kv_tokens[items].astype(np.int64)
    buckets = []
    first = 0
    while first < len(items):
        longest = int(lengths[first])
        last = int(np.searchsorted(-lengths, -(longest * 2 // 3 - 8), side="right"))
        buckets.append(_bucket(work, items[first:last], lengths[first:last]))
        first = last
    return buckets


def _bucket(work: SegmentWork, items: Int64Array, lengths: Int64Array) -> _Bucket:
    token = np.arange(int(lengths[0]))
    valid = token < lengths[:, None]
    entry = work.block_offsets[items][:, None] + token // work.block_size
    blocks = work.blocks[np.where(valid, entry, 0)].astype(np.int64)
    slots = np.where(valid, blocks * work.block_size + token % work.block_size, 0)
    mask = np.where(valid, np.float32(0), np.float32(-np.inf))[:, None, None]
    return _Bucket(
        rows=torch.from_numpy(work.row_first[items].astype(np.int64)),
        slots=torch.from_numpy(slots.reshape(-1)),
        mask=torch.from_numpy(mask),
    )
