"""Which kernel runs where."""

from __future__ import annotations

import logging

import torch

from shoal.attention.contract import AttentionBackend
from shoal.attention.native import NativeAttention
from shoal.attention.reference import ReferenceAttention
from shoal.attention.torch_cpu import TorchCpuAttention
from shoal.kernels import load_kernels, missing_note

_log = logging.getLogger(__name__)


def select_backend(
    dtype: torch.dtype, device: torch.device, layers: list[tuple[int, int, int]]
) -> AttentionBackend:
    """The fastest kernel for a model.

    Args:
        dtype: of queries, keys and values.
        layers: (kv_heads, key_dim, value_dim) of each.
    """
    if device.type != "cpu":
        return ReferenceAttention()
    kernels = load_kernels()
    if kernels is not None and all(NativeAttention.knows(dtype, dim) for _, dim, _ in layers):
        return NativeAttention(kernels)
    _log.warning(
        "%s",
        missing_note()
        or f"no C++ attention for {dtype} with heads of {layers[0][1]}: attention runs in torch, "
        "which is several times slower. Use bfloat16 or float32.",
    )
    same = all(key_dim == value_dim for _, key_dim, value_dim in layers)
    return TorchCpuAttention() if same else ReferenceAttention()
