"""The KV pool's tensors."""

from __future__ import annotations

import torch


class KVTensors:
    """Keys and values of every layer, in slots handed out by the scheduler's block pool.

    Per layer: keys [kv_heads, slots, head_dim] and values [kv_heads, slots, value_dim], so that
    a run of neighbouring blocks is one dense matrix per head.
    """

    def __init__(
        self,
        layers: list[tuple[int, int, int]],
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """`layers`: (kv_heads, head_dim, value_dim) of each."""
        self._keys = [
            torch.zeros(heads, num_slots, dim, dtype=dtype, device=device)
            for heads, dim, _ in layers
        ]
        self._values = [
            torch.zeros(heads, num_slots, dim, dtype=dtype, device=device)
            for heads, _, dim in layers
        ]

    def write(
        self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store T rows; returns the layer's whole pool.

        Args:
            slots: int64 [T], all different.
            key, value: [kv_heads, T, dim].
        """
        keys, values = self._keys[layer], self._values[layer]
        keys.index_copy_(1, slots, key)
        values.index_copy_(1, slots, value)
        return keys, values
