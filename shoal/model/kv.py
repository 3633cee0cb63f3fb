"""The KV pool's memory: one part per layer, laid out by the attention backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from shoal.attention import AttentionBackend, KVLayer, KVShape


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
        self._groups: tuple[tuple[int, ...], ...] = ()
        self._group_of = [0] * len(layers)
        self._blocks = [num_blocks]
        self._layers = [
            backend.allocate(KVShape(*layer, num_blocks, block_size, dtype, device))
            for layer in layers
        ]

    def divide(self, groups: Sequence[tuple[int, ...]], blocks: Sequence[int]) -> None:
        """Give each group of layers so many blocks; what is stored may be lost.

        Args:
            groups: indices of layers, each layer in one group.
        """
        if (tuple(groups), list(blocks)) == (self._groups, self._blocks):
            return
        self._groups, self._blocks = tuple(groups), list(blocks)
        changed: list[tuple[int, KVShape]] = []
        for group, (layers, count) in enumerate(zip(groups, blocks, strict=True)):
            for layer in layers:
                self._group_of[layer] = group
                shape = self._layers[layer].shape
                if shape.num_blocks != count:
                    changed.append((layer, replace(shape, num_blocks=count)))
        # All of the old memory goes before any new is taken.
        kept = [layer for layer, _ in changed]
        old: list[KVLayer | None] = list(self._layers)
        for layer in kept:
            old[layer] = None
        self._layers = []
        for layer, shape in changed:
            old[layer] = self.backend.allocate(shape)
        self._layers = [layer for layer in old if layer is not None]

    @property
    def is_even(self) -> bool:
        """Whether all layers have the same blocks, so that one list of slots does for all."""
        return len(set(self._blocks)) == 1

    def group_of(self, layer: int) -> int:
        """The group of a layer, by `divide`; 0 before."""
        return self._group_of[layer]

    @classmethod
    def of(cls, backend: AttentionBackend, layers: list[KVLayer]) -> KVPool:
        """A pool of layers that `backend` has allocated already."""
        pool = cls.__new__(cls)
        pool.backend, pool._layers = backend, layers
        pool._group_of, pool._blocks = [0] * len(layers), [0]
        return pool

    def __getitem__(self, layer: int) -> KVLayer:
        return self._layers[layer]
