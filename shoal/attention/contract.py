"""The contract every segment attention kernel keeps.

For a query row q and a segment s of keys K_s and values V_s, with scores z_s = scale * K_s q:

    l_s = logsumexp(z_s)        (natural logarithm)
    o_s = softmax(z_s) V_s

and over all segments S of the row, merged in float32:

    l = logsumexp_s(l_s),  o = sum_s exp(l_s - l) * o_s

which equals attention over the concatenation of the segments (Juravsky et al., Hydragen, 2024;
BatchLLM, MLSys 2026). A segment of no tokens has l_s = -inf and adds nothing; a row with no keys
at all gives zeros.
"""

from __future__ import annotations

from typing import Protocol

import torch

from shoal.work import SegmentWork


class AttentionBackend(Protocol):
    """A kernel. `prepare` once per token batch, then call once per layer."""

    name: str

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """Whatever the kernel derives from the work list; passed back to `__call__`."""

    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        prepared: object,
        scale: float,
    ) -> torch.Tensor:
        """Attention of all rows over all their segments.

        Args:
            query: [heads, T, head_dim].
            keys: [kv_heads, slots, head_dim], one layer of the pool; heads is a multiple of
                kv_heads, query head h reads KV head h // (heads // kv_heads).
            values: [kv_heads, slots, value_dim].
            prepared: what `prepare` returned for this batch.
            scale: factor on the scores.

        Returns:
            [T, heads, value_dim] in the query's dtype.
        """
