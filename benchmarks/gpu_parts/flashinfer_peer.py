"""FlashInfer's multi-level cascade over our own pool: segments, then own tokens.

The package is no dependency of anything here: without it, or without its kernels compiled, there
are no figures of it, and their record says why. `flashinfer_kernels` compiles them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_parts.flashinfer_kernels import kernels
from benchmarks.shapes import Shape
from shoal.attention import KVLayer
from shoal.types import Int32Array
from shoal.work import SegmentWork

WAYS = {"flashinfer": "auto", "flashinfer_fa2": "fa2"}
"""The names of the figures, and the backends behind them.

FlashInfer itself takes fa3 on Hopper. That neither packs the heads of a group nor splits long keys,
so fa2 may well be the faster one where a request has a single row.
"""
_WORKSPACE_BYTES = 256 * 2**20
"""Twice what FlashInfer recommends; the levels run one after the other and share it."""


class FlashInferAbsentError(Exception):
    """FlashInfer cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Level:
    """Who attends to which pages: N entries, as FlashInfer's `plan` wants them, on the CPU.

    Attributes:
        rows: int32 [N + 1]; entry n has the rows rows[n] ... rows[n + 1] - 1.
        pages: int32 [N + 1]; entry n has the pages page_ids[pages[n]:pages[n + 1]].
        page_ids: int32; blocks of our pool.
        last_page: int32 [N]; tokens in an entry's last page, 1 to the page size.
    """

    rows: Int32Array
    pages: Int32Array
    page_ids: Int32Array
    last_page: Int32Array


def levels(shape: Shape) -> list[Level]:
    """Shared segments, then own tokens, which alone are causal; nothing shared: only the latter."""
    works = [shape.work(causal) for causal in (False, True)]
    return [level(work) for work in works if len(work)]


def level(work: SegmentWork) -> Level:
    """A work list whose items divide all rows among them, in order.

    Raises:
        ValueError: they do not, or an item has no tokens.
    """
    rows = np.append(work.row_first, work.num_rows)
    if rows[0] != 0 or not np.array_equal(rows[1:], work.row_last) or work.kv_tokens.min() < 1:
        raise ValueError("a level's items must divide all rows in order, each with tokens")
    pages = np.diff(work.block_offsets)
    return Level(
        rows=rows.astype(np.int32),
        pages=work.block_offsets.astype(np.int32),
        page_ids=work.blocks,
        last_page=(work.kv_tokens - (pages - 1) * work.block_size).astype(np.int32),
    )


class FlashInferCascade:
    """Attention of a shape's rows over all their tokens; planned once, in advance."""

    def __init__(self, shape: Shape, query: torch.Tensor, layer: KVLayer, backend: str) -> None:
        """Plan.

        Args:
            query: [heads, rows, dim] on a CUDA device.
            layer: keys and values [blocks, kv_heads, block, dim], read in place.
            backend: auto, fa2 or fa3.

        Raises:
            FlashInferAbsentError: the package or one of its kernels is missing.
        """
        flashinfer = _package(layer)
        self._query = query.transpose(0, 1).contiguous()
        self._pool = layer.keys, layer.values
        found = levels(shape)
        workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=query.device)
        self._wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(len(found), workspace, "HND")
        # Its constructor offers no choice and always takes "auto".
        inner = self._wrapper._batch_prefill_wrappers
        for wrapper in inner:
            wrapper._backend = backend
        self._wrapper.plan(
            *_columns(found),
            num_qo_heads=query.shape[0],
            num_kv_heads=layer.shape.kv_heads,
            head_dim=layer.shape.key_dim,
            page_size=layer.shape.block_size,
            causal=True,
            q_data_type=query.dtype,
        )
        self.how = f"flashinfer {flashinfer.__version__}, {len(found)} levels, {inner[0]._backend}"

    def __call__(self) -> torch.Tensor:
        """[rows, heads, dim]."""
        out: torch.Tensor = self._wrapper.run(self._query, self._pool)
        return out


def _columns(found: list[Level]) -> list[list[torch.Tensor]]:
    """The same of every level side by side: rows, pages, page ids, tokens in last pages."""
    names = ("rows", "pages", "page_ids", "last_page")
    return [[torch.from_numpy(getattr(part, name)) for part in found] for name in names]


def _package(layer: KVLayer) -> Any:
    """FlashInfer, if it can be imported and what it would compile first is compiled."""
    if layer.keys.device.type != "cuda":
        raise FlashInferAbsentError("not measured: FlashInfer needs a CUDA device")
    try:
        import flashinfer
    except Exception as error:
        raise FlashInferAbsentError(f"not measured: {type(error).__name__}: {error}") from error
    missing = [k.name for k in kernels(layer.keys.dtype, layer.shape.key_dim) if not k.is_compiled]
    if missing:
        raise FlashInferAbsentError(f"not measured: not compiled: {', '.join(missing)}")
    return flashinfer
