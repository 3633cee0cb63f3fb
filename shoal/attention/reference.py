"""Segment attention by its definition: the oracle of the kernels, on any device.

One item at a time, scores in float32, merged in float32. Slow and plain on purpose.
"""

from __future__ import annotations

import numpy as np
import torch

from shoal.attention.contract import KVLayer, PlainPool
from shoal.attention.kind import PLAIN, AttentionKind
from shoal.types import BoolArray
from shoal.work import SegmentWork, Window


class ReferenceAttention(PlainPool):
    """The contract, word by word."""

    name = "reference"

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """The work list itself."""
        return work

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        """See `AttentionBackend`."""
        assert isinstance(prepared, SegmentWork)
        return attend(query, layer, prepared, scale, kind)

    def partial(
        self, query: torch.Tensor, layer: KVLayer, prepared: object, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PartialAttention`."""
        assert isinstance(prepared, SegmentWork)
        out, lse = _attend(query, layer, prepared, scale, PLAIN)
        return out.transpose(0, 1), lse.transpose(0, 1)


def attend(
    query: torch.Tensor, layer: KVLayer, work: SegmentWork, scale: float, kind: AttentionKind
) -> torch.Tensor:
    """A softmax per item, merged into the rows' results one after another, in float32.

    Args: as in `AttentionBackend`; `layer` is a `PlainPool`'s.
    """
    out, lse = _attend(query, layer, work, scale, kind)
    if kind.sinks is not None:
        add_sinks(out, lse, kind.sinks)
    return out.transpose(0, 1).to(query.dtype)


def _attend(
    query: torch.Tensor, layer: KVLayer, work: SegmentWork, scale: float, kind: AttentionKind
) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [heads, T, value_dim] and [heads, T], without sinks."""
    keys, values = layer.keys, layer.values
    heads, rows, _ = query.shape
    group = heads // keys.shape[0]
    out = query.new_zeros(heads, rows, values.shape[2], dtype=torch.float32)
    lse = torch.full((heads, rows), -torch.inf, device=query.device)
    for item in range(len(work)):
        first, last = int(work.row_first[item]), int(work.row_last[item])
        seen = _visible(work, item, kind.sight)
        some = np.flatnonzero(seen.any(axis=0))
        if len(some) == 0:
            continue
        # Keys before those are hidden from all rows.
        begin = int(some[0])
        visible = torch.from_numpy(seen[:, begin:]).to(query.device)
        slots = torch.from_numpy(work.slots(item, begin)).to(query.device)
        k = keys[:, slots].float().repeat_interleave(group, dim=0)
        v = values[:, slots].float().repeat_interleave(group, dim=0)
        scores = query[:, first:last].float() @ k.transpose(1, 2) * scale
        if kind.softcap is not None:
            scores = kind.softcap * torch.tanh(scores / kind.softcap)
        scores.masked_fill_(~visible, -torch.inf)
        part_lse = torch.logsumexp(scores, dim=-1)
        part = torch.exp(scores - part_lse.nan_to_num(neginf=0.0)[..., None]) @ v
        merge(out[:, first:last], lse[:, first:last], part, part_lse)
    return out, lse


def _visible(work: SegmentWork, item: int, window: Window | None) -> BoolArray:
    """Which of an item's tokens each of its rows sees: bool [rows, tokens]."""
    rows, tokens = int(work.row_last[item] - work.row_first[item]), int(work.kv_tokens[item])
    row, token = np.arange(rows)[:, None], np.arange(tokens)
    seen = np.ones((rows, tokens), dtype=np.bool_)
    if work.causal[item]:
        seen &= token <= tokens - rows + row
    if window is not None:
        seen &= token >= work.hidden(item, window)[:, None]
    return seen


def add_sinks(out: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> None:
    """Give each row's sink its share of the softmax, in place.

    Args:
        out: float32 [heads, T, value_dim].
        lse: float32 [heads, T], of all keys of the rows; left as it is.
        sinks: [heads].
    """
    out.mul_(torch.sigmoid(lse - sinks.float()[:, None])[..., None])


def merge(out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Merge a partial result into (out, lse), in place.

    Args:
        out, part: float32 [..., value_dim].
        lse, part_lse: float32 [...], natural logarithm; -inf where nothing was attended to.
    """
    total = torch.logaddexp(lse, part_lse)
    reachable = total.nan_to_num(neginf=0.0)
    out.mul_(torch.exp(lse - reachable)[..., None])
    out.add_(part * torch.exp(part_lse - reachable)[..., None])
    lse.copy_(total)
