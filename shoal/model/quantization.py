"""Where quantized products can be had, and the refusal elsewhere."""

from __future__ import annotations

import torch

from shoal.config import Quantization
from shoal.errors import OptionError
from shoal.kernels import load_kernels, missing_note
from shoal.kernels.interface import DTYPES


def check_quantization(
    wanted: Quantization, device: torch.device, dtype: torch.dtype, parts: int
) -> None:
    """Raise `OptionError` if what is wanted cannot be had.

    Args:
        dtype: the model's.
        parts: devices that one model is split over.
    """
    if wanted is Quantization.none:
        return
    if device.type != "cpu":
        raise OptionError(
            f"quantization {wanted} runs on the CPU, and this job on {device.type}: leave it out, "
            "or give --device cpu."
        )
    if parts > 1:
        raise OptionError(f"quantization {wanted} does not go with tensor_parallel {parts}.")
    if dtype not in DTYPES:
        name = str(dtype).removeprefix("torch.")
        raise OptionError(
            f"quantization {wanted} goes with dtype bfloat16 or float32, and this model runs in "
            f"{name}: give --dtype bfloat16."
        )
    if load_kernels() is None:
        raise OptionError(f"quantization {wanted} needs the C++ kernels: {missing_note()}")
    # Others add pairs of products in 16 bits, where large ones overflow.
    found = torch.cpu.get_capabilities()
    if not found.get("avx512_vnni") and not found.get("avx_vnni"):
        raise OptionError(
            f"quantization {wanted}: this processor has no instructions for exact sums of 8-bit "
            "products (VNNI); leave it out."
        )
