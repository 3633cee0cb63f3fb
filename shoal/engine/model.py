"""Loads an unmodified transformers model and proves that our attention is the one it uses."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from shoal.engine.description import ModelDescription
from shoal.engine.features import refuse_unknown_keyword
from shoal.engine.hook import ATTENTION_NAME, AttentionProbe, attention_step
from shoal.errors import ModelLoadError, UnsupportedModelError


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for packed batches.

    Attributes:
        layers: (kv_heads, head_dim, value_dim) of each attention layer, by layer index.
    """

    module: torch.nn.Module
    layers: list[tuple[int, int, int]]
    selects_logits: bool

    def logits(
        self, token_ids: torch.Tensor, positions: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        """Run T packed tokens inside an `attention_step`; logits of some of them.

        Args:
            token_ids, positions: int64 [T].
            rows: int64 [R], rows whose logits are wanted.

        Returns:
            [R, vocabulary].
        """
        keywords: dict[str, Any] = {"logits_to_keep": rows} if self.selects_logits else {}
        out = self.module(
            input_ids=token_ids[None], position_ids=positions[None], use_cache=False, **keywords
        )
        logits: torch.Tensor = out.logits[0]
        return logits if self.selects_logits else logits[rows]


def load_model(description: ModelDescription) -> LoadedModel:
    """Load the weights and probe the model's attention.

    Raises:
        ModelLoadError: the weights cannot be read.
        UnsupportedModelError: the model does not use the attention it is given, or asks it for
            a feature we do not honour.
    """
    try:
        module = AutoModelForCausalLM.from_pretrained(
            description.source, dtype=description.dtype, attn_implementation=ATTENTION_NAME
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelLoadError(
            f"cannot load the weights of {description.id!r}: {str(error).splitlines()[0]}"
        ) from error
    return prepare_model(module, description)


def prepare_model(module: torch.nn.Module, description: ModelDescription) -> LoadedModel:
    """Move a model to its device and probe it; see `load_model`."""
    module = module.to(description.device).eval()
    signature = inspect.signature(module.forward).parameters
    model = LoadedModel(module, [], "logits_to_keep" in signature)
    return LoadedModel(module, _probe(model, description), model.selects_logits)


def _probe(model: LoadedModel, description: ModelDescription) -> list[tuple[int, int, int]]:
    """One forward of two tokens: our function must be called exactly once per layer.

    Some models keep their own attention whatever they are told; they would ignore segments and
    be silently wrong.
    """
    probe = AttentionProbe()
    kind = description.config.model_type
    two = torch.arange(2, device=description.device)
    try:
        with torch.inference_mode(), attention_step(probe):
            model.logits(two, two, two[1:])
    except UnsupportedModelError:
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("probe failed", exc_info=True)
        raise UnsupportedModelError(
            "packed batches",
            f"models of type {kind!r} cannot run a packed batch: {type(error).__name__}: {error}",
        ) from error
    layers = description.config.num_hidden_layers
    if sorted(probe.layers) != list(range(layers)):
        raise UnsupportedModelError(
            "its own attention code",
            f"models of type {kind!r} keep an attention of their own: of {layers} layers "
            f"{len(set(probe.layers))} called the one they were given. Use another model.",
        )
    for keywords in probe.keywords:
        refuse_unknown_keyword(kind, keywords, description.max_model_len)
    return [shape for _, shape in sorted(zip(probe.layers, probe.head_dims, strict=True))]
