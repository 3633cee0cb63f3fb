"""How many weights a model has, counted from its config and remembered.

Counting imports and builds the model's classes, which takes longer than to plan a small job.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig

from shoal.machine.calibration_cache import cache_file, save_json


@dataclass(frozen=True)
class WeightCounts:
    """Weights of a model, most of them of matrix products.

    Attributes:
        layers: of all layers.
        active: those of them that one token is multiplied with.
        head: of the output head, its own or the embedding's.
        all: everything there is, embeddings included, what is shared counted once.
    """

    layers: int
    active: int
    head: int
    all: int


def count_weights(config: PreTrainedConfig) -> WeightCounts:
    """The weights of a causal language model, counted, or remembered of a config like it."""
    path = _cache_path(config)
    counts = None if path is None else _remembered(path)
    if counts is None:
        counts = _count(config)
        if path is not None:
            save_json(path, asdict(counts))
    return counts


def _remembered(path: Path) -> WeightCounts | None:
    """None where there is nothing that makes sense."""
    try:
        counts = WeightCounts(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    sound = all(type(number) is int and number > 0 for number in asdict(counts).values())
    return counts if sound else None


def _cache_path(config: PreTrainedConfig) -> Path | None:
    """The file that remembers; None for a model whose own code says what it is made of."""
    if getattr(config, "auto_map", None):
        return None
    facts = (type(config).__name__, config.to_json_string(), transformers.__version__)
    return cache_file("weights", facts)


def _count(config: PreTrainedConfig) -> WeightCounts:
    """The model is built without memory for its weights."""
    model = _built(config)
    head = model.get_output_embeddings() or nn.Linear(
        config.hidden_size, config.vocab_size, bias=False, device="meta"
    )
    experts = _experts(config)
    aside = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    aside |= {id(p) for p in head.parameters()}
    layers, active = 0, 0.0
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or id(parameter) in aside:
            continue
        layers += parameter.numel()
        active += parameter.numel() * (experts.share(parameter) if ".experts." in name else 1.0)
    everything = sum(parameter.numel() for parameter in model.parameters())
    if model.get_output_embeddings() is None and not config.tie_word_embeddings:
        everything += head.weight.numel()
    return WeightCounts(layers, round(active), head.weight.numel(), everything)


_EXPERTS_PER_TOKEN = "num_experts_per_tok", "top_k_experts"


@dataclass(frozen=True)
class _Experts:
    """Of one layer.

    Attributes:
        count: those with weights.
        idle: those that give what they are given, as LongCat-Flash has beside them.
        per_token: how many of both a token is given to.
    """

    count: int
    idle: int
    per_token: int

    def share(self, parameter: nn.Parameter) -> float:
        """What one token is multiplied with, of the weights of one expert, or of all in a stack.

        The idle are taken for as wanted as others; some stacks have room for them, too.
        """
        stacked = parameter.shape[0] if parameter.ndim > 2 else self.count
        return self.per_token * self.count / (self.count + self.idle) / stacked


def _built(config: PreTrainedConfig) -> Any:
    """The model; of a text part that has no class with a head in transformers, all but its head."""
    # Only here: with it come seconds of imports.
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_MAPPING,
    )

    headless = type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) in MODEL_MAPPING
    built: Any = AutoModel if headless else AutoModelForCausalLM
    with torch.device("meta"):
        return built.from_config(config)


def _experts(config: PreTrainedConfig) -> _Experts:
    """Those of each layer; one that every token is given to without any."""
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        experts = getattr(config, name, None)
        if experts:
            given = (getattr(config, each, None) for each in _EXPERTS_PER_TOKEN)
            idle = int(getattr(config, "zero_expert_num", None) or 0)
            return _Experts(int(experts), idle, int(next(filter(None, given), experts)))
    return _Experts(1, 0, 1)
