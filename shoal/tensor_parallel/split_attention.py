"""Segment attention in several ranks: each stores and attends with its own KV heads.

Rank 0's backend is wrapped, so that whatever drives the model there (a run, calibration,
a memory probe) has the KV layers made in the other ranks too, and the work list at hand to tell
them.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from itertools import count

import torch

from shoal.attention import PLAIN, AttentionBackend, AttentionKind, KVLayer, KVShape
from shoal.errors import InternalError
from shoal.tensor_parallel.commands import Allocate
from shoal.tensor_parallel.worker_group import WorkerGroup
from shoal.work import SegmentWork


@dataclass(frozen=True, eq=False)
class MirroredLayer(KVLayer):
    """Rank 0's part of a layer, whose other parts are known by `number`."""

    part: KVLayer
    number: int


@dataclass(frozen=True)
class MirroredWork:
    """A work list, and what rank 0's backend made of it."""

    work: SegmentWork
    prepared: object


class MirroredAttention:
    """An `AttentionBackend` that has its allocations repeated by the other ranks."""

    def __init__(self, backend: AttentionBackend, workers: WorkerGroup) -> None:
        self.name = backend.name
        self._backend, self._workers = backend, workers
        self._numbers = count()

    def allocate(self, shape: KVShape) -> MirroredLayer:
        """See `AttentionBackend`; the others give their memory back when this layer is garbage.

        Raises:
            torch.OutOfMemoryError: here or in another rank.
        """
        number = next(self._numbers)
        sizes = (shape.kv_heads, shape.key_dim, shape.value_dim, shape.num_blocks, shape.block_size)
        self._workers.tell(Allocate(number, sizes))
        try:
            try:
                part = self._backend.allocate(shape)
            finally:
                self._workers.agree()
        except Exception:
            self._workers.free(number)
            raise
        layer = MirroredLayer(part.shape, part.keys, part.values, part, number)
        weakref.finalize(layer, self._workers.free, number).atexit = False
        return layer

    def store(
        self, layer: KVLayer, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """See `AttentionBackend`."""
        self._backend.store(_mirrored(layer).part, slots, key, value)

    def prepare(self, work: SegmentWork, device: torch.device) -> MirroredWork:
        """See `AttentionBackend`."""
        return MirroredWork(work, self._backend.prepare(work, device))

    def __call__(
        self,
        query: torch.Tensor,
        layer: KVLayer,
        prepared: object,
        scale: float,
        kind: AttentionKind = PLAIN,
    ) -> torch.Tensor:
        """See `AttentionBackend`."""
        if not isinstance(prepared, MirroredWork):
            raise InternalError("attention was prepared by another backend than it is computed by")
        return self._backend(query, _mirrored(layer).part, prepared.prepared, scale, kind)


def _mirrored(layer: KVLayer) -> MirroredLayer:
    if not isinstance(layer, MirroredLayer):
        raise InternalError("a KV layer of another backend")
    return layer
