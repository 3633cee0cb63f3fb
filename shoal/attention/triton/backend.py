"""The Triton backend: attention of a whole batch in one launch, and a light merge."""

from __future__ import annotations

from functools import cache

import torch
from triton.runtime import driver

from shoal.attention.contract import KVLayer, KVShape
from shoal.attention.kind import PLAIN, AttentionKind
from shoal.attention.triton.buffers import Capacity, DeviceWork, FixedWork, PreparedWork
from shoal.attention.triton.kernels import attend, merge, store
from shoal.attention.triton.launch import Launch, make_launch, power_of_two
from shoal.attention.triton.tiles import TilePair, Tiles, choose_tiles
from shoal.work import SegmentWork, Window

_DTYPES = torch.bfloat16, torch.float16, torch.float32
_LARGEST_DIM = 256
_LARGEST_LATENT = {2: 576, 4: 320}
"""By bytes of a number: longer ones do not fit the shared memory of all devices."""
_CPU_PROGRAMS = 3
"""Of the persistent grid under Triton's interpreter, which runs them one after the other."""
_STORE_ROWS = 16
"""Rows a program of the store launch writes."""


class TritonAttention:
    """Triton kernels. Keys and values are [num_blocks, kv_heads, block_size, dim].

    Everything is launched on torch's current stream of the tensors' device, which must be
    torch's current device. Not for several threads at once.
    """

    name = "triton"

    def __init__(self, tiles: Tiles | None = None, programs: int | None = None) -> None:
        """`tiles`, `programs` (the whole grid's): others than the table's, for tests and tuning."""
        self._tiles, self._programs = tiles, programs
        self._pairs: dict[KVShape, TilePair] = {}
        self._launches: dict[tuple[KVShape, int, Tiles, Window | None], Launch] = {}

    @staticmethod
    def knows(dtype: torch.dtype, key_dim: int, value_dim: int, *, latent: bool = False) -> bool:
        """Whether the kernel can run for these numbers and head dimensions.

        Args:
            latent: whether values lie within keys, as those of latents do (MLA).
        """
        if dtype not in _DTYPES:
            return False
        most = _LARGEST_LATENT[dtype.itemsize] if latent else _LARGEST_DIM
        return max(key_dim, value_dim) <= most

    def allocate(self, shape: KVShape) -> KVLayer:
        """Zeros, block by block. Values of a latent layer are a view of its keys."""
        dims = shape.key_dim, 0 if shape.latent else shape.value_dim
        keys, values = (
            torch.zeros(
                shape.num_blocks,
                shape.kv_heads,
                shape.block_size,
                dim,
                dtype=shape.dtype,
                device=shape.device,
            )
            for dim in dims
        )
        return KVLayer(shape, keys, keys[..., : shape.value_dim] if shape.latent else values)

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """One launch that writes keys and values; `slots` is on the device."""
        shape, rows = layer.shape, len(slots)
        if rows == 0:
            return
        store[(-(-rows // _STORE_ROWS), shape.kv_heads)](
            key,
            value,
            layer.keys,
            layer.values,
            slots,
            rows,
            slots.stride(0),
            *key.stride(),
            *value.stride(),
            KV_HEADS=shape.kv_heads,
            BLOCK=shape.block_size,
            KEY_DIM=shape.key_dim,
            KEY_COLUMNS=power_of_two(shape.key_dim),
            VALUE_DIM=shape.value_dim,
            VALUE_COLUMNS=power_of_two(shape.value_dim),
            LATENT=shape.latent,
            TILE=_STORE_ROWS,
        )

    def prepare(self, work: SegmentWork, device: torch.device) -> object:
        """The work list; its tasks are made at the first call, when the heads are known."""
        return PreparedWork(work, device)

    def fixed(self, capacity: Capacity, device: torch.device) -> FixedWork:
        """Buffers that serve as `prepared` for many batches, for CUDA graphs; see `FixedWork`."""
        return FixedWork(capacity, device)

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        """One launch for all tiles, and one that merges the rows that were split."""
        heads, rows, _ = query.shape
        out = query.new_empty(rows, heads, layer.shape.value_dim)
        self._run(query, layer, prepared, scale, kind, out, None)
        return out

    def partial(
        self, query: torch.Tensor, layer: KVLayer, prepared: object, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention and its log-sum-exp, for merging with others.

        Args: as in `__call__`.

        Returns:
            float32 [T, heads, value_dim], and float32 [T, heads] (natural logarithm; -inf for a
            row without keys).
        """
        heads, rows, _ = query.shape
        out = query.new_empty(rows, heads, layer.shape.value_dim, dtype=torch.float32)
        lse = query.new_empty(rows, heads, dtype=torch.float32)
        self._run(query, layer, prepared, scale, PLAIN, out, lse)
        return out, lse

    def read_keys(self, layer: KVLayer, blocks: torch.Tensor) -> torch.Tensor:
        """See `shoal.attention.latent.PartialAttention`."""
        return layer.keys[blocks].transpose(0, 1).flatten(1, 2)

    def _run(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind,
        out: torch.Tensor,
        lse: torch.Tensor | None,
    ) -> None:
        assert isinstance(prepared, PreparedWork | FixedWork)
        work: DeviceWork = prepared
        if query.stride(-1) != 1:
            query = query.contiguous()
        shape, (heads, rows, _) = layer.shape, query.shape
        launch = self._launch(shape, heads, work, kind)
        tasks = work.tasks(launch.geometry)
        space = work.workspace(tasks, heads, shape.value_dim)
        # Without the LSE nothing is written through its address, which must be some address.
        results = out, space.lse if lse is None else lse, space.out, space.lse
        sinks = space.lse if kind.sinks is None else kind.sinks
        attend[(launch.geometry.programs,)](
            query,
            layer.keys,
            layer.values,
            *results,
            tasks.counts,
            tasks.records,
            tasks.blocks,
            tasks.positions,
            sinks,
            query.stride(0),
            query.stride(1),
            scale,
            kind.softcap or 1.0,
            0 if launch.geometry.window is None else launch.geometry.window.tokens,
            WITH_LSE=lse is not None,
            WINDOW=launch.geometry.window is not None,
            SOFTCAP=kind.softcap is not None,
            SINKS=kind.sinks is not None,
            **launch.attend,
        )
        if tasks.sizes.rows > 0:
            merge[(tasks.sizes.rows, launch.merge_tiles)](
                *results,
                tasks.counts,
                tasks.merge_rows,
                tasks.merge_offsets,
                tasks.merge_slots,
                sinks,
                rows,
                WITH_LSE=lse is not None,
                SINKS=kind.sinks is not None,
                **launch.merge,
            )

    def _launch(self, shape: KVShape, heads: int, work: DeviceWork, kind: AttentionKind) -> Launch:
        pair = self._pair(shape)
        tiles = pair.choose(work.rows_per_key(heads // shape.kv_heads))
        window = work.window(kind.sight)
        key = shape, heads, tiles, window
        found = self._launches.get(key)
        if found is None:
            programs = self._programs or _device_limits(shape.device)[0] * tiles.programs
            found = self._launches[key] = make_launch(shape, heads, tiles, programs, window)
        return found

    def _pair(self, shape: KVShape) -> TilePair:
        found = self._pairs.get(shape)
        if found is None:
            if self._tiles is not None:
                found = TilePair(self._tiles, self._tiles)
            else:
                shared = _device_limits(shape.device)[1]
                found = choose_tiles(shape.dtype, shape.key_dim, shape.value_dim, shared)
            self._pairs[shape] = found
        return found


@cache
def _device_limits(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and the shared memory a program may have, in bytes."""
    if device.type != "cuda":
        return _CPU_PROGRAMS, 1 << 30
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = driver.active.utils.get_device_properties(index)
    return properties["multiprocessor_count"], properties["max_shared_mem"]
