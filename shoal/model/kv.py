"""The KV pool's memory: one part per layer, laid out by the attention backend."""

from __future__ import annotations

import torch

from shoal.attention import AttentionBackend, KVLayer, KVShape
from shoal.attention.latent import LatentHeads


class KVPool:
    """Keys and values of every layer, in slots handed out by the scheduler's block pool."""

    def __init__(
        self,
        backend: AttentionBackend,
        layers: list[tuple[int, int, int]],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`layers`: (kv_heads, key_dim, value_dim) of each."""
        self.backend = backend
        self._layers = [
            backend.allocate(
                KVShape(
                    *layer, num_blocks, block_size, dtype, device, isinstance(layer, LatentHeads)
                )
            )
            for layer in layers
        ]

    @classmethod
    def of(cls, backend: AttentionBackend, layers: list[KVLayer]) -> KVPool:
        """A pool of layers that `backend` has allocated already."""
        pool = cls.__new__(cls)
        pool.backend, pool._layers = backend, layers
        return pool

    def with_backend(self, backend: AttentionBackend) -> KVPool:
        """The same memory under another backend, whose layout is the same."""
        return KVPool.of(backend, self._layers)

    def __getitem__(self, layer: int) -> KVLayer:
        return self._layers[layer]
