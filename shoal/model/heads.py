"""What stands behind a model's layers where it does not generate.

Whatever it is, the model is called as transformers' causal models are, and its numbers are called
logits: the rest of the house runs, proves and fuses it like any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
)
from transformers.modeling_outputs import CausalLMOutput

from shoal.errors import UnsupportedModelError
from shoal.model.pooling import Pooling, Task


class HeadedModel(nn.Module):
    """A decoder whose hidden states go through a head, row by row."""

    def __init__(self, model: nn.Module, head: nn.Module, config: PreTrainedConfig) -> None:
        super().__init__()
        self.model, self.head, self.config = model, head, config

    def forward(
        self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor | int = 0, **keywords: Any
    ) -> CausalLMOutput:
        """`logits` [1, R, width] of the rows `logits_to_keep`, int64 [R]; 0: of all."""
        hidden = self.model(input_ids=input_ids, **keywords).last_hidden_state
        rows = hidden if isinstance(logits_to_keep, int) else hidden[:, logits_to_keep]
        return CausalLMOutput(logits=self.head(rows))

    def get_output_embeddings(self) -> nn.Module:
        """The head, whose products are not quantized."""
        return self.head


def auto_class(pooling: Pooling | None) -> Any:
    """The class of transformers that reads the weights."""
    if pooling is None or pooling.tokens:
        return AutoModelForCausalLM
    return AutoModel if pooling.task is Task.embed else AutoModelForSequenceClassification


def headed(module: nn.Module, pooling: Pooling | None, config: PreTrainedConfig) -> nn.Module:
    """A loaded model with the head that is asked for.

    Raises:
        UnsupportedModelError: its classification head is not what we know.
    """
    if pooling is None:
        return module
    if pooling.tokens:
        return _of_tokens(module, pooling.tokens)
    if pooling.task is Task.embed:
        return HeadedModel(module, nn.Identity(), config)
    head = getattr(module, "score", None)
    base = getattr(module, str(getattr(module, "base_model_prefix", "")), None)
    if not isinstance(head, nn.Linear) or not isinstance(base, nn.Module):
        raise UnsupportedModelError(
            "classification head",
            f"models of type {config.model_type!r} have another classification head than one "
            "product of the last token's vector. Use another model.",
        )
    return HeadedModel(base, head, config)


def _of_tokens(model: Any, tokens: tuple[int, ...]) -> nn.Module:
    """A causal model whose output head has some tokens alone: it scales and caps them as ever."""
    module: nn.Module = model
    whole = model.get_output_embeddings()
    rows = torch.tensor(tokens, device=whole.weight.device)
    head = nn.Linear(whole.in_features, len(tokens), bias=whole.bias is not None)
    head = head.to(whole.weight.device, whole.weight.dtype)
    with torch.no_grad():
        head.weight.copy_(whole.weight[rows])
        if whole.bias is not None:
            head.bias.copy_(whole.bias[rows])
    model.set_output_embeddings(head.requires_grad_(False))
    return module
