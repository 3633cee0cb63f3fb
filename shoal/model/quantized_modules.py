"""How transformers is asked for a quantised checkpoint, and what is said of what came."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import CompressedTensorsConfig
from transformers.utils import logging as transformers_logging

from shoal.model.fusion.linear import is_plain
from shoal.model.stored_format import StoredFormat

_log = logging.getLogger(__name__)


def quantizer_keywords(stored: StoredFormat | None, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is given besides for a checkpoint in a format.

    compressed-tensors' layers hold weights widened after their first forward. Where they round no
    inputs, widening them at load gives the same numbers in plain layers, which can be fused.
    """
    if stored is None:
        return {}
    keywords: dict[str, Any] = {}
    if stored.method == "bitsandbytes" or device.type != "cpu":
        keywords["device_map"] = {"": device}
    if stored.method == "compressed-tensors" and not stored.rounds_inputs:
        keywords["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    return keywords


@contextmanager
def quiet_quantizers(stored: StoredFormat | None) -> Iterator[None]:
    """In this block transformers says nothing of how it reads a format: it is said here, once."""
    if stored is None:
        yield
        return
    before = transformers_logging.get_verbosity()
    # transformers leaves this function without types.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # That the config it is given is one besides that of the checkpoint.
            warnings.filterwarnings("ignore", "You passed `quantization_config`")
            yield
    finally:
        transformers_logging.set_verbosity(before)


def settle_quantized(module: Any, stored: StoredFormat | None) -> None:
    """Log in one line what is stored how, and what it takes in memory from now on."""
    if stored is None:
        return
    if stored.method == "compressed-tensors" and stored.rounds_inputs:
        # It would come with the first forward.
        module.hf_quantizer.compressor.decompress_model(module)
    linear = [part for part in module.modules() if isinstance(part, nn.Linear)]
    kept = sum(not is_plain(part) for part in linear)
    _log.info(
        "quantised weights: %s; %.1f MiB in memory, %d of %d linear layers run by the format's "
        "own code",
        stored,
        sum(tensor.nbytes for tensor in _tensors(module)) / 2**20,
        kept,
        len(linear),
    )


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    """All parameters and buffers; those that a tensor subclass is made of in its place."""
    seen = set()
    for tensor in (*module.parameters(), *module.buffers()):
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        names = getattr(tensor.data, "tensor_data_names", None)
        parts = [getattr(tensor.data, name) for name in names] if names else [tensor]
        yield from parts
