"""Our attention function, as transformers calls it from inside any model.

Models stay unmodified: their attention layers look up the implementation by name and call it with
q, k and v of shape [1, heads, T, head_dim]. What we need besides (pool, work list) is not passed
through the model but found in a context variable around the forward, since not every architecture
hands keywords down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface

from shoal.errors import InternalError
from shoal.model.kv import KVPool

ATTENTION_NAME = "shoal_segments"
"""The name our attention is registered under in transformers."""


@dataclass
class WantedRows:
    """The rows of a batch whose logits are wanted: all that the last layer has to compute.

    Attributes:
        rows: int64 [R], ascending.
        prepared: the attention of these rows alone.
    """

    rows: torch.Tensor
    prepared: object


@dataclass
class AttentionStep:
    """What the attention layers need to know about the token batch they run in."""

    kv: KVPool
    slots: torch.Tensor
    """int64 [T], the pool slot each row's key and value go to."""
    prepared: object
    wanted: WantedRows | None = None
    """None: the last layer computes every row."""


@dataclass
class AttentionProbe:
    """Records how a model calls its attention, one entry per call."""

    layers: list[int] = field(default_factory=list)
    head_dims: list[tuple[int, int, int]] = field(default_factory=list)
    """(kv_heads, head_dim, value_dim) of each call."""
    scales: list[float] = field(default_factory=list)
    """The factor on the scores of each call."""
    keywords: list[dict[str, Any]] = field(default_factory=list)


_step: ContextVar[AttentionStep | AttentionProbe | None] = ContextVar("shoal_step", default=None)


@contextmanager
def attention_step(step: AttentionStep | AttentionProbe) -> Iterator[None]:
    """Makes `step` the one that attention layers see inside the block."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def current_step() -> AttentionStep:
    """The token batch that runs.

    Raises:
        InternalError: none does.
    """
    step = _step.get()
    if not isinstance(step, AttentionStep):
        raise InternalError("segment attention was called outside a token batch")
    return step


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Store this layer's keys and values, then attend over segments.

    query: [1, heads, T, head_dim]; key, value: [1, kv_heads, T, dim].
    Returns [1, T, heads, value_dim], as transformers' attention functions do.
    """
    step = _step.get()
    layer = int(module.layer_idx)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(step, AttentionProbe):
        step.layers.append(layer)
        step.head_dims.append((key.shape[1], key.shape[3], value.shape[3]))
        step.scales.append(scale)
        step.keywords.append(keywords)
        return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None
    step = current_step()
    backend, pool = step.kv.backend, step.kv[layer]
    backend.store(pool, step.slots, key[0], value[0])
    return backend(query[0], pool, step.prepared, scale)[None], None


# No mask function goes with it: for attention without one transformers builds no mask. One that
# returns None would be asked only after the positions were searched for packed sequences, which
# reads a number back from the device in every forward (`shoal.cuda.readback`).
AttentionInterface.register(ATTENTION_NAME, _attention)
