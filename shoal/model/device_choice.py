"""On which devices a model computes, and in which number format."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from shoal.config import Device, Dtype, EngineOptions
from shoal.errors import OptionError


def chosen_dtype(wanted: Dtype, config: PreTrainedConfig) -> torch.dtype:
    """The format asked for, or the one that the weights are stored in."""
    if wanted is Dtype.auto:
        return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    dtype: torch.dtype = getattr(torch, wanted)
    return dtype


def chosen_device(options: EngineOptions, parts: int) -> torch.device:
    """The device, or the kind of the `parts` devices.

    On Ray the devices are of other machines. One that is named is taken at its word: this machine
    may have none.
    """
    wanted = options.device
    if options.ray is not None and wanted is not Device.auto:
        return torch.device(str(wanted))
    if wanted is Device.cuda and not torch.cuda.is_available():
        raise OptionError("device cuda: torch sees no CUDA device here; use --device cpu")
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if wanted is Device.auto else str(wanted))
    if options.ray is not None:
        return device
    if device.type == "cuda" and parts > torch.cuda.device_count():
        raise OptionError(
            f"tensor_parallel {parts}: torch sees only {torch.cuda.device_count()} CUDA devices."
        )
    if device.type == "cpu" and parts > 1 and torch.accelerator.is_available():
        raise OptionError(
            "tensor_parallel on the CPU: transformers splits a model over the accelerators it "
            "sees, whatever the device. Hide them first: CUDA_VISIBLE_DEVICES= shoal ..."
        )
    return device


def check_device_count(device: torch.device, options: EngineOptions) -> None:
    """Raise `OptionError` where there are fewer CUDA devices than wanted."""
    if device.type != "cuda" or options.ray is not None:
        return
    each, there = options.tensor_parallel, torch.cuda.device_count()
    if options.devices * each <= there:
        return
    of = "" if each == 1 else f" of {each} each"
    raise OptionError(
        f"devices {options.devices}{of}: torch sees {there} CUDA device(s) here; give "
        f"devices {there // each} at most."
    )
