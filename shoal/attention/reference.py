"""Segment attention by its definition: the oracle of the kernels, on any device.

One item at a time, scores in float32, merged in float32. Slow and plain on purpose.
"""

from __future__ import annotations

import torch

from shoal.attention.contract import KVLayer, PlainPool
from shoal.work import SegmentWork


class ReferenceAttention(PlainPool):
    """The contract, word by word."""

    name = "reference"

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """The work list itself."""
        return work

    def __call__(
        self, query: torch.Tensor, layer: KVLayer, prepared: object, scale: float
    ) -> torch.Tensor:
        """A softmax per item, merged into the rows' results one after another, in float32."""
        keys, values = layer.keys, layer.values
        assert isinstance(prepared, SegmentWork)
        heads, rows, _ = query.shape
        group = heads // keys.shape[0]
        out = query.new_zeros(heads, rows, values.shape[2], dtype=torch.float32)
        lse = torch.full((heads, rows), -torch.inf, device=query.device)
        for item in range(len(prepared)):
            first, last = int(prepared.row_first[item]), int(prepared.row_last[item])
            slots = torch.from_numpy(prepared.slots(item)).to(query.device)
            k = keys[:, slots].float().repeat_interleave(group, dim=0)
            v = values[:, slots].float().repeat_interleave(group, dim=0)
            scores = query[:, first:last].float() @ k.transpose(1, 2) * scale
            if prepared.causal[item]:
                unseen = torch.ones(scores.shape[1:], dtype=torch.bool, device=query.device)
                scores.masked_fill_(unseen.triu(len(slots) - (last - first) + 1), -torch.inf)
            part_lse = torch.logsumexp(scores, dim=-1)
            part = torch.exp(scores - part_lse.nan_to_num(neginf=0.0)[..., None]) @ v
            merge(out[:, first:last], lse[:, first:last], part, part_lse)
        return out.transpose(0, 1).to(query.dtype)


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
