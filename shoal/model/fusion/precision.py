"""In which number format the matrix products of a bfloat16 model run.

bfloat16 halves the bytes of the weights, and processors with units for it multiply it at least
twice as fast. Others multiply float32 faster: those without bfloat16, where it is emulated, and
Intel's with AVX512-BF16 but no AMX, where a dot product of pairs takes as long as four float32
multiply-adds (measured: docs/lab-notes.md). There the weights are widened at load, once; the
products are those of bfloat16 numbers either way, summed in float32.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from shoal.kernels import Isa, Kernels
from shoal.model.fusion.linear import is_plain

MEMORY_SHARE = 0.5
"""Of the memory available, what wider weights may take."""

_log = logging.getLogger(__name__)


def product_dtype(module: nn.Module, kernels: Kernels | None) -> torch.dtype:
    """The format to hold the weights of linear layers in: the model's own, or float32."""
    dtype = next(module.parameters()).dtype
    if dtype != torch.bfloat16 or kernels is None or kernels.isa >= Isa.avx512_bf16:
        return dtype
    more, available = _linear_bytes(module), available_bytes()
    if more > MEMORY_SHARE * available:
        _log.warning(
            "this processor multiplies float32 faster than bfloat16, but weights in float32 would "
            "take %.1f GiB more, of %.1f available: they stay in bfloat16, slower",
            more / 2**30,
            available / 2**30,
        )
        return dtype
    return torch.float32


def available_bytes() -> int:
    """Memory that can be had without swapping, as Linux estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable; Linux has it since 3.14")


def _linear_bytes(module: nn.Module) -> int:
    return sum(layer.weight.nbytes for layer in module.modules() if is_plain(layer))
