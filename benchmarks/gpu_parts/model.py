"""A model of known shape with random weights, made in the memory of its device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from benchmarks.models import MAX_MODEL_LEN, ModelShape, make_config, make_tokenizer
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME
from shoal.model.load import LoadedModel, fused_model, prepare_model


def describe(
    name: str, shape: ModelShape, dtype: torch.dtype, device: torch.device, **changes: Any
) -> ModelDescription:
    """What the engine knows of such a model; nothing ends an answer but its length.

    `changes`: fields of its transformers config that differ.
    """
    config = make_config(shape)
    for field, value in changes.items():
        setattr(config, field, value)
    return ModelDescription(
        id=name,
        name=name,
        tokenizer=make_tokenizer(shape.vocabulary),
        config=config,
        dtype=dtype,
        device=device,
        eos_token_ids=(),
        max_model_len=MAX_MODEL_LEN,
        vocab_size=shape.vocabulary,
        kv_bytes_per_token=shape.kv_bytes_per_token * dtype.itemsize // 2,
    )


def random_module(
    config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, attention: str
) -> torch.nn.Module:
    """The model, initialised on the device; the same for the same config and attention or not."""
    torch.manual_seed(0)
    with torch.device(device):
        # transformers leaves this function without types.
        module: torch.nn.Module = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation=attention
        )
    return module.eval()


def random_model(description: ModelDescription, fuse: bool = True) -> LoadedModel:
    """A model ready for the engine, never on a disk.

    Args:
        fuse: replace modules as the engine does; False: they stay transformers' own.
    """
    return made_model(
        lambda: random_module(
            description.config, description.dtype, description.device, ATTENTION_NAME
        ),
        description,
        fuse,
    )


def made_model(
    make: Callable[[], torch.nn.Module], description: ModelDescription, fuse: bool
) -> LoadedModel:
    """What `make` gives, ready for the engine; see `random_model`."""
    return fused_model(make, description) if fuse else prepare_model(make(), description)
