"""One forward of two tokens: how a model calls its attention, before anything is proved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import torch

from shoal.attention.latent import LatentHeads
from shoal.errors import UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.model.features import refuse_unknown_keyword
from shoal.model.hook import AttentionProbe, attention_step
from shoal.model.layer_sizes import attending
from shoal.model.memory import out_of_memory
from shoal.model.prove_states import check_states

Logits: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""`LoadedModel.logits`."""

_log = logging.getLogger(__name__)


def probe_attention(logits: Logits, description: ModelDescription) -> AttentionProbe:
    """One forward of two tokens: our function must be called exactly once per layer.

    Some models keep their own attention whatever they are told; they would ignore segments and
    be silently wrong.
    """
    probe = AttentionProbe()
    kind = description.model_type
    two = torch.arange(2, device=description.device)
    try:
        with torch.inference_mode(), attention_step(probe):
            logits(two, two, two[1:])
    except UnsupportedModelError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        _log.debug("probe failed", exc_info=True)
        raise UnsupportedModelError(
            "packed batches",
            f"models of type {kind!r} cannot run a packed batch: {type(error).__name__}: {error}",
        ) from error
    attends = attending(description.config, int(description.config.num_hidden_layers))
    expected = [layer for layer, does in enumerate(attends) if does]
    if sorted(probe.layers) != expected:
        called = len(set(probe.layers))
        raise own_attention_error(kind, f"{called} of {len(expected)} layers called the one given")
    check_states(probe.states, description.states, kind)
    probe.num_layers = len(attends)
    for keywords in probe.keywords:
        refuse_unknown_keyword(kind, keywords)
    return probe


def check_kv_bytes(
    layers: list[tuple[int, int, int]], owners: tuple[int, ...], description: ModelDescription
) -> None:
    """Refuse a model that keeps more or less of a token than its description says."""
    kind = description.model_type
    stored = [layers[layer] for layer in set(owners)]
    numbers = sum(
        heads * (key_dim if isinstance(layer, LatentHeads) else key_dim + value_dim)
        for layer in stored
        for heads, key_dim, value_dim in [layer]
    )
    if numbers * description.dtype.itemsize != description.kv_bytes_per_token:
        raise UnsupportedModelError(
            "keys and values of an unusual shape",
            f"models of type {kind!r} store {numbers} numbers of KV per token, which is not what "
            "their config says; memory could not be budgeted. Use another model.",
        )


def own_attention_error(model_type: str, evidence: str) -> UnsupportedModelError:
    """The refusal of a model that attends by itself; evidence: what shows it."""
    return UnsupportedModelError(
        "its own attention code",
        f"models of type {model_type!r} keep their own attention whatever they are given "
        f"({evidence}), so shared segments would be ignored. Use another model.",
    )
