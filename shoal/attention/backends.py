"""Which kernel runs where."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

from shoal.attention.contract import AttentionBackend
from shoal.attention.latent import LatentAttention, LatentHeads, PartialAttention
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
        layers: (kv_heads, key_dim, value_dim) of each; zeros where one does not attend.
    """
    layers = [layer for layer in layers if layer[0]]
    if any(isinstance(layer, LatentHeads) for layer in layers):
        return LatentAttention(_of_latents(dtype, device, layers))
    if device.type != "cpu":
        return _on_device(dtype, layers)
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


def _of_latents(
    dtype: torch.dtype, device: torch.device, layers: list[tuple[int, int, int]]
) -> PartialAttention:
    """What computes attention over latents."""
    if device.type != "cpu" and find_spec("triton") is not None:
        from shoal.attention.triton import TritonAttention

        if all(TritonAttention.knows(dtype, *dims, latent=True) for _, *dims in layers):
            return TritonAttention()
    kernels = load_kernels() if device.type == "cpu" else None
    if kernels is not None and all(NativeAttention.knows(dtype, dim) for _, dim, _ in layers):
        return NativeAttention(kernels)
    _log.warning(
        "no kernel for latents of %d numbers (MLA) in %s on %s: their attention runs by its plain "
        "definition in torch, which is many times slower%s",
        layers[0][1],
        dtype,
        device.type,
        ". Use bfloat16 or float32."
        if device.type == "cpu"
        else ". Triton (pip install 'shoal[cuda]') has one for 576 numbers, 320 in float32.",
    )
    return ReferenceAttention()


def _on_device(dtype: torch.dtype, layers: list[tuple[int, int, int]]) -> AttentionBackend:
    if find_spec("triton") is None:
        _log.warning(
            "triton is not installed: attention runs by its plain definition in torch, which is "
            "many times slower. Install it: pip install 'shoal[cuda]'"
        )
        return ReferenceAttention()
    # Importing it imports triton, which machines without a GPU need not have.
    from shoal.attention.triton import TritonAttention

    if all(TritonAttention.knows(dtype, *dims) for _, *dims in layers):
        return TritonAttention()
    _log.warning(
        "no Triton attention for %s with heads of %s: attention runs by its plain definition in "
        "torch, which is many times slower. Use bfloat16, float16 or float32, and heads of at "
        "most 256.",
        dtype,
        sorted({dim for _, *dims in layers for dim in dims}),
    )
    return ReferenceAttention()
