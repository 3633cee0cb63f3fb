"""The KV pool's memory: one part per layer, laid out by the attention backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from shoal.attention import AttentionBackend, KVLayer, KVShape
from shoal.attention.latent import LatentHeads
from shoal.recurrence import StateMemory


class KVPool:
    """Keys and values of every layer, in slots handed out by the scheduler's block pools.

    Attributes:
        states: the memory of recurrent layers; whoever needs another number of states sets it.
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
            layers: (kv_heads, key_dim, value_dim) of each; zeros where one does not attend.
            owners: for each layer, whose keys and values it reads; empty: its own.
        """
        self.backend, self._owners = backend, tuple(owners) or tuple(range(len(layers)))
        self._groups: tuple[tuple[int, ...], ...] = ()
        self._group_of, self._blocks = [0] * len(layers), [num_blocks]
        self.states: StateMemory | None = None
        self._parts = {
            layer: backend.allocate(
                KVShape(
                    *layers[layer],
                    num_blocks,
                    block_size,
                    dtype,
                    device,
                    isinstance(layers[layer], LatentHeads),
                )
            )
            for layer in sorted(set(self._owners))
            if layers[layer][0]
        }

    def divide(self, groups: Sequence[tuple[int, ...]], blocks: Sequence[int]) -> None:
        """Give each group of layers so many blocks; what is stored may be lost.

        Args:
            groups: indices of layers, each layer in one group; a layer that reads another's keys
                and values is in the same.
        """
        if (tuple(groups), list(blocks)) == (self._groups, self._blocks):
            return
        self._groups, self._blocks = tuple(groups), list(blocks)
        changed: dict[int, KVShape] = {}
        for group, (layers, count) in enumerate(zip(groups, blocks, strict=True)):
            for layer in layers:
                self._group_of[layer] = group
                if layer in self._parts and self._parts[layer].shape.num_blocks != count:
                    changed[layer] = replace(self._parts[layer].shape, num_blocks=count)
        # All of the old memory goes before any new is taken.
        for layer in changed:
            del self._parts[layer]
        for layer, shape in changed.items():
            self._parts[layer] = self.backend.allocate(shape)

    @property
    def is_even(self) -> bool:
        """Whether all layers have the same blocks, so that one list of slots does for all."""
        return len(set(self._blocks)) == 1

    def group_of(self, layer: int) -> int:
        """The group of a layer, by `divide`; 0 before."""
        return self._group_of[layer]

    @classmethod
    def of(
        cls, backend: AttentionBackend, layers: list[KVLayer], owners: Sequence[int] = ()
    ) -> KVPool:
        """A pool of layers that `backend` has allocated already."""
        pool = cls.__new__(cls)
        pool.backend, pool._parts, pool.states = backend, dict(enumerate(layers)), None
        pool._owners = tuple(owners) or tuple(range(len(layers)))
        pool._groups, pool._group_of, pool._blocks = (), [0] * len(layers), [0]
        return pool

    def stores(self, layer: int) -> bool:
        """Whether a layer's keys and values are its own to store."""
        return self._owners[layer] == layer

    def with_backend(self, backend: AttentionBackend) -> KVPool:
        """The same memory under another backend, whose layout is the same."""
        pool = KVPool.of(backend, [])
        pool.__dict__.update(self.__dict__, backend=backend)
        return pool

    def __getitem__(self, layer: int) -> KVLayer:
        return self._parts[self._owners[layer]]
