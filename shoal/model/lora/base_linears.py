"""The linear layers of a model that adapters may be for, known without its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from shoal.errors import UnsupportedModelError
from shoal.model.layer_sizes import RECURRENT_LAYERS

Shape = tuple[int, int]
"""Outputs and inputs of a linear layer."""


def refuse_model(config: PreTrainedConfig, *, composite: bool, parts: int) -> None:
    """Raise `UnsupportedModelError` for a model that adapters are not proved right for.

    Args:
        composite: the checkpoint has towers besides.
        parts: devices that it is split over.
    """
    kind = config.model_type
    if parts > 1:
        raise _refusal(kind, f"split over {parts} devices", "Give --devices, each a whole copy.")
    if composite:
        raise _refusal(kind, "in a checkpoint with towers", "Merge the adapter into its model.")
    if getattr(config, "kv_lora_rank", None):
        raise _refusal(kind, "with attention over latents (MLA)", "Merge it into its model.")
    layers = set(getattr(config, "layer_types", None) or ())
    if layers & RECURRENT_LAYERS:
        raise _refusal(kind, "with recurrent layers", "Merge the adapter into its model.")


def base_linears(config: PreTrainedConfig, *, trusted: bool) -> dict[str, Shape]:
    """The linear layers of a model's layers by their names in its class; experts are left out.

    The model is built without memory for its weights.
    """
    # Only here: with it come seconds of imports.
    from transformers import AutoModelForCausalLM

    built: Any = AutoModelForCausalLM
    with torch.device("meta"):
        model = built.from_config(config, trust_remote_code=trusted)
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and ".experts." not in name
    }


def _refusal(kind: str, what: str, remedy: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "adapters",
        f"LoRA adapters are not applied to models of type {kind!r} {what}: not proved right there. "
        f"{remedy}",
    )
