"""Segment attention by the C++ kernel (`csrc/attention/`), on the CPU."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from shoal.attention.contract import KVLayer, KVShape
from shoal.attention.kind import PLAIN, AttentionKind
from shoal.kernels import Isa, Kernels
from shoal.kernels.interface import BLOCK, DTYPES, Attention, AttentionItems, Shape, Store
from shoal.work import SegmentWork, Window

_SLACK = 64
"""Elements after the pool that the kernel may read (and ignores)."""


class _Prepared:
    """A work list, and the tasks made of it for each shape of heads and each window (one or two, in
    most models)."""

    def __init__(self, work: SegmentWork, lib: ctypes.CDLL) -> None:
        self.items, self._lib, self._plans = work, lib, dict[tuple[bytes, Window | None], int]()
        columns = work.row_first, work.row_last, work.kv_tokens, work.starts, work.causal
        self._columns = [
            np.ascontiguousarray(c) for c in (*columns, work.block_offsets, work.blocks)
        ]
        addresses = [column.ctypes.data for column in self._columns]
        self._work = AttentionItems(work.num_rows, len(work), *addresses)

    def plan(self, shape: Shape, window: Window | None) -> int:
        """The tasks for heads of this shape, which lacks the window; freed with this object."""
        key = bytes(shape), window
        plan = self._plans.get(key)
        if plan is None:
            if window is not None:
                # In a variable, so that its memory outlives the call.
                last = np.ascontiguousarray(window.last(self.items.positions))
                shape.window, self._work.positions = window.tokens, last.ctypes.data
            plan = self._lib.shoal_attention_plan(ctypes.byref(self._work), ctypes.byref(shape))
            self._plans[key] = plan
        return plan

    @property
    def plans(self) -> list[int]:
        """The plans made so far."""
        return list(self._plans.values())

    def __del__(self) -> None:
        for plan in self.plans:
            self._lib.shoal_attention_free(plan)


class NativeAttention:
    """The C++ kernel. Blocks are of 32 tokens; keys and values packed for dot products."""

    name = "native"

    def __init__(self, kernels: Kernels, isa: Isa | None = None) -> None:
        """`isa`: another than the machine's fastest, for tests and comparisons."""
        self._lib = kernels.lib
        self.isa = kernels.isa if isa is None else isa

    @staticmethod
    def knows(dtype: torch.dtype, key_dim: int) -> bool:
        """Whether the kernel can run: bfloat16 keys are stored in pairs."""
        return dtype in DTYPES and (dtype == torch.float32 or key_dim % 2 == 0)

    def allocate(self, shape: KVShape) -> KVLayer:
        """Zeroed memory in the kernel's layout, and a little behind it that tiles may read."""
        assert shape.block_size == BLOCK, f"the kernel works on blocks of {BLOCK} tokens"
        slots = shape.num_blocks * shape.block_size
        keys, values = (
            torch.empty(shape.kv_heads * slots * dim + _SLACK, dtype=shape.dtype)
            for dim in (shape.key_dim, 0 if shape.latent else shape.value_dim)
        )
        for pool in (keys, values):
            # Before the first write: pages that are there already stay small.
            self._lib.shoal_use_huge_pages(pool.data_ptr(), pool.nbytes)
            pool.zero_()
        return KVLayer(shape, keys, values)

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """One call of the C++ store, which packs the rows into their blocks."""
        shape = layer.shape
        key, value = _dense_rows(key), _dense_rows(value)
        call = Store(
            dtype=DTYPES[shape.dtype],
            kv_heads=shape.kv_heads,
            key_dim=shape.key_dim,
            value_dim=shape.value_dim,
            rows=len(slots),
            slots=slots.data_ptr(),
            key=key.data_ptr(),
            value=value.data_ptr(),
            key_head=key.stride(0),
            key_row=key.stride(1),
            value_head=value.stride(0),
            value_row=value.stride(1),
            keys=layer.keys.data_ptr(),
            values=_values(layer),
            keys_head=_head_size(shape, shape.key_dim),
            values_head=_head_size(shape, shape.value_dim),
            threads=torch.get_num_threads(),
        )
        self._lib.shoal_kv_store(ctypes.byref(call))

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """Tasks are made at the first call, when the heads are known."""
        return _Prepared(work, self._lib)

    def tasks(self, prepared: object) -> tuple[int, int]:
        """Tasks a call is divided into, and how many of them are parts of a split row tile."""
        assert isinstance(prepared, _Prepared)
        tasks, parts = ctypes.c_int64(), ctypes.c_int64()
        for plan in prepared.plans:
            self._lib.shoal_attention_tasks(plan, ctypes.byref(tasks), ctypes.byref(parts))
        return tasks.value, parts.value

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
        *,
        out_dtype: torch.dtype | None = None,
        lse: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One call of the C++ kernel, on all its threads.

        Args:
            out_dtype: the query's (None), or float32, which is not rounded.
            lse: float32 [T, heads], to be filled with the rows' log-sum-exps, sinks included.
        """
        assert isinstance(prepared, _Prepared)
        shape = layer.shape
        query = _dense_rows(query)
        heads, rows, key_dim = query.shape
        assert key_dim == shape.key_dim, f"queries of {key_dim} numbers on keys of {shape.key_dim}"
        out = query.new_empty(rows, heads, shape.value_dim, dtype=out_dtype)
        plan = prepared.plan(
            Shape(
                dtype=DTYPES[shape.dtype],
                isa=self.isa,
                heads=heads,
                kv_heads=shape.kv_heads,
                key_dim=shape.key_dim,
                value_dim=shape.value_dim,
                threads=torch.get_num_threads(),
            ),
            kind.sight if prepared.items.hides(kind.sight) else None,
        )
        # In a variable, so that its memory outlives the call.
        sinks = None if kind.sinks is None else kind.sinks.float().contiguous()
        call = Attention(
            query=query.data_ptr(),
            query_head=query.stride(0),
            query_row=query.stride(1),
            keys=layer.keys.data_ptr(),
            values=_values(layer),
            keys_head=_head_size(shape, shape.key_dim),
            values_head=_head_size(shape, shape.value_dim),
            scale=scale,
            softcap=kind.softcap or 0.0,
            sinks=None if sinks is None else sinks.data_ptr(),
            out=out.data_ptr(),
            out_dtype=DTYPES[out.dtype],
            lse=None if lse is None else lse.data_ptr(),
        )
        self._lib.shoal_attention_run(plan, ctypes.byref(call))
        return out

    def partial(
        self, query: torch.Tensor, layer: KVLayer, prepared: object, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PartialAttention`."""
        heads, rows, _ = query.shape
        lse = query.new_empty(rows, heads, dtype=torch.float32)
        out = self(query, layer, prepared, scale, out_dtype=torch.float32, lse=lse)
        return out, lse

    def read_keys(self, layer: KVLayer, blocks: torch.Tensor) -> torch.Tensor:
        """See `PartialAttention`."""
        shape, pack = layer.shape, 4 // layer.shape.dtype.itemsize
        keys = layer.keys[: shape.kv_heads * _head_size(shape, shape.key_dim)]
        by_block = keys.view(shape.kv_heads, shape.num_blocks, -1, BLOCK, pack)
        found = by_block[:, blocks].transpose(2, 3)
        return found.reshape(shape.kv_heads, len(blocks) * BLOCK, shape.key_dim)


def _values(layer: KVLayer) -> int | None:
    return None if layer.shape.latent else layer.values.data_ptr()


def _dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """[heads, T, dim] whose last dimension is dense; the others may have any stride."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _head_size(shape: KVShape, dim: int) -> int:
    return shape.num_blocks * shape.block_size * dim
