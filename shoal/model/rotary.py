"""Rotary frequencies that depend on how long a request is: longrope and dynamic NTK.

transformers takes the largest position of a batch, so in a packed one a short request would get a
long one's frequencies. Here each row gets those that its request would get alone. A row's length
travels in the upper half of its position, through all that positions pass through.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from shoal.errors import UnsupportedModelError
from shoal.types import LengthSwitch

_SWITCHING = ("dynamic", "longrope")
_BITS = 32

_lengths: ContextVar[torch.Tensor | None] = ContextVar("shoal_row_lengths", default=None)


def length_switch(config: PreTrainedConfig) -> LengthSwitch | None:
    """From which length on a model of text turns its keys otherwise; None: it never does."""
    rope = getattr(config, "rope_parameters", None)
    rope = rope if isinstance(rope, dict) else {}
    kind = rope.get("rope_type")
    if kind == "longrope":
        return LengthSwitch(
            int(rope["original_max_position_embeddings"]),
            each_length=False,
            restarts=_may_restart(config),
        )
    if kind == "dynamic":
        return LengthSwitch(int(config.max_position_embeddings), each_length=True, restarts=False)
    return None


def refuse_mixed_switch(config: PreTrainedConfig, max_model_len: int) -> None:
    """Raise `UnsupportedModelError` if some layers scale by length below `max_model_len` tokens."""
    rope = getattr(config, "rope_parameters", None)
    inner = [part for part in (rope or {}).values() if isinstance(part, dict)]
    limits = [
        int(part["original_max_position_embeddings"])
        for part in inner
        if part.get("rope_type") == "longrope"
    ]
    if not limits or max_model_len <= min(limits):
        return
    raise UnsupportedModelError(
        "rotary scaling by length in some layers",
        f"models of type {config.model_type!r} scale rotary positions by a request's length in "
        "some layers, and otherwise in others; Shoal knows one such scaling for all layers. Up to "
        f"{min(limits)} tokens it makes no difference: use --max-model-len {min(limits)} or less, "
        "or another model.",
    )


def scaled_limit(config: PreTrainedConfig) -> int | None:
    """The longest request a model is made for; None: it states none.

    Dynamic NTK is for requests longer than `max_position_embeddings`, by its factor.
    """
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None)
    if limit is None or not isinstance(rope, dict) or rope.get("rope_type") != "dynamic":
        return limit
    return int(limit * max(1.0, float(rope.get("factor") or 1.0)))


def _may_restart(config: PreTrainedConfig) -> bool:
    """Whether the model's class may drop its cache at the threshold, as Phi-3 does."""
    # Planning a job imports this module, and needs no model's code unless its config is such.
    from transformers import GenerationMixin
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    made = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    own = getattr(made, "prepare_inputs_for_generation", None)
    named = hasattr(config, "original_max_position_embeddings")
    return named and own is not GenerationMixin.prepare_inputs_for_generation


def with_lengths(positions: Any, lengths: Any) -> Any:
    """Positions [T] that carry their rows' lengths, int64 [T], of numpy or torch."""
    return positions + (lengths << _BITS)


@contextmanager
def row_lengths(lengths: torch.Tensor | None) -> Iterator[None]:
    """In this block rows go by these lengths, int64 [T], or by their positions, if larger."""
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)


@contextmanager
def plain_positions(module: nn.Module, positions: torch.Tensor) -> Iterator[torch.Tensor]:
    """Positions without the lengths they carry, by which a model's rows go in this block."""
    if not getattr(module, "goes_by_length", False):
        yield positions
        return
    with row_lengths(positions >> _BITS):
        yield positions & ((1 << _BITS) - 1)


def go_by_length(module: nn.Module, switch: LengthSwitch | None, kind: str) -> None:
    """Let a model's rotary embeddings give each row what its request would get alone.

    Args:
        kind: the model's type, for messages.

    Raises:
        UnsupportedModelError: where the model begins anew is not what its class shows.
    """
    if switch is None:
        return
    for part in list(module.modules()):
        if getattr(part, "rope_type", None) in _SWITCHING and "forward" not in vars(part):
            # transformers' modules have forwards of their own, so mypy cannot know this.
            by_row = _by_each_length if switch.each_length else _by_threshold
            part.forward = partial(by_row, part, part.forward, switch)
    module.goes_by_length = True  # type: ignore[assignment]
    if hasattr(module, "prepare_inputs_for_generation"):
        _check_restarts(module, switch, kind)


def _by_threshold(
    part: nn.Module, own: Any, switch: LengthSwitch, x: torch.Tensor, position_ids: torch.Tensor
) -> Any:
    """Longrope: the model's own two answers, and of each row the one that is its own."""
    lengths = _lengths.get()
    if lengths is None:
        return own(x, position_ids)
    long = torch.maximum(lengths, position_ids[0] + 1) > switch.threshold
    # It looks at the largest position: a row more makes it long, none beyond keeps it short.
    behind = position_ids.new_full((len(position_ids), 1), switch.threshold)
    far = own(x, torch.cat([position_ids, behind], dim=1))
    near = own(x, position_ids.clamp(max=switch.threshold - 1))
    return tuple(torch.where(long[:, None], a[:, :-1], b) for a, b in zip(far, near, strict=True))


def _by_each_length(
    part: Any, own: Any, switch: LengthSwitch, x: torch.Tensor, position_ids: torch.Tensor
) -> Any:
    """Dynamic NTK: frequencies of each row's own length."""
    lengths = _lengths.get()
    if lengths is None:
        # What it had of longer requests would stay.
        part.inv_freq, part.max_seq_len_cached = part.original_inv_freq, part.original_max_seq_len
        return own(x, position_ids)
    lengths = torch.maximum(lengths, position_ids[0] + 1)
    angles = position_ids[..., None].float() * _dynamic_frequencies(part, lengths, switch)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _dynamic_frequencies(part: Any, lengths: torch.Tensor, switch: LengthSwitch) -> torch.Tensor:
    """Of rows of so many tokens, [T, dim / 2].

    As transformers' `_compute_dynamic_ntk_parameters`, which makes a tensor on the host.
    """
    rope, dim = part.config.rope_parameters, 2 * len(part.original_inv_freq)
    factor = rope["factor"]
    stretch = factor * lengths.clamp(min=switch.threshold) / switch.threshold - (factor - 1)
    base = rope["rope_theta"] * stretch[:, None] ** (dim / (dim - 2))
    powers = torch.arange(0, dim, 2, device=lengths.device).float() / dim
    found: torch.Tensor = 1.0 / base**powers
    return found


def _check_restarts(module: Any, switch: LengthSwitch, kind: str) -> None:
    """Ask the model itself whether it drops its cache with the token past the threshold."""
    if switch.each_length:
        return
    from transformers.cache_utils import DynamicCache

    heads = torch.zeros(1, 1, switch.threshold, 1, device="meta")
    cache = DynamicCache()
    cache.update(heads, heads, 0)
    ids = torch.zeros(1, switch.threshold + 1, dtype=torch.int64)
    inputs = module.prepare_inputs_for_generation(
        ids, past_key_values=cache, attention_mask=torch.ones_like(ids), next_sequence_length=1
    )
    if (inputs.get("past_key_values") is None) != switch.restarts:
        raise UnsupportedModelError(
            "a cache that is dropped",
            f"models of type {kind!r} do another thing with their cache at {switch.threshold} "
            f"tokens than their class shows. Use --max-model-len {switch.threshold} or less, or "
            "another model.",
        )
