"""The KV pool's memory: one part per layer, laid out by the attention backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shoal.attention import AttentionBackend, KVLayer, KVShape


class KVPool:
    """Keys and values of every layer, in slots handed out by the scheduler's block pool.

    A layer that reuses another's (`owners`) has no memory of its own and stores nothing.
    """

    def __init__(
        self,
        backend: AttentionBackend,
        layers: list[tuple[int, int, int]],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        owners: Sequence[int] = (),
    ) -> None:
        """Take the memory.

        Args:
            layers: (kv_heads, key_dim, value_dim) of each.
            owners: for each layer, whose keys and values it reads; empty: its own.
        """
        own = tuple(owners) or tuple(range(len(layers)))
        taken = {
            layer: backend.allocate(KVShape(*layers[layer], num_blocks, block_size, dtype, device))
            for layer in sorted(set(own))
        }
        self.backend, self._owners = backend, own
        self._layers = [taken[owner] for owner in own]

    @classmethod
    def of(
        cls, backend: AttentionBackend, layers: list[KVLayer], owners: Sequence[int] = ()
    ) -> KVPool:
        """A pool of layers that `backend` has allocated already."""
        pool = cls.__new__(cls)
        pool.backend, pool._layers = backend, layers
        pool._owners = tuple(owners) or tuple(range(len(layers)))
        return pool

    def stores(self, layer: int) -> bool:
        """Whether a layer's keys and values are its own to store."""
        return self._owners[layer] == layer

    def __getitem__(self, layer: int) -> KVLayer:
        return self._layers[layer]
