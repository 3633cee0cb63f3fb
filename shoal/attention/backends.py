"""Which kernel runs where."""

from __future__ import annotations

import torch

from shoal.attention.contract import AttentionBackend
from shoal.attention.reference import ReferenceAttention
from shoal.attention.torch_cpu import TorchCpuAttention


def select_backend(device: torch.device, head_dim: int, value_dim: int) -> AttentionBackend:
    """The fastest kernel for a device and head shape."""
    if device.type == "cpu" and head_dim == value_dim:
        return TorchCpuAttention()
    return ReferenceAttention()
