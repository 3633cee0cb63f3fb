"""Our attention function, as transformers calls it from inside any model.

Models stay unmodified: their attention layers look up the implementation by name and call it with
q, k and v of shape [1, heads, T, head_dim]. What we need besides (pool, work list) is not passed
through the model but found in a context variable around the forward, since not every architecture
hands keywords down.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from shoal.attention import PLAIN, AttentionKind
from shoal.attention.latent import LatentAttention
from shoal.errors import InternalError
from shoal.model.kv import KVPool
from shoal.recurrence import PreparedStates, StateMemory
from shoal.state_work import StateWork
from shoal.work import Window

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


@dataclass(frozen=True)
class GroupStep:
    """A token batch in one group of layers.

    Attributes:
        slots: int64 [T], the pool slot each row's key and value go to.
        prepared: the attention of all rows.
        wanted: the attention of the `WantedRows` alone, if there are any.
    """

    slots: torch.Tensor
    prepared: object
    wanted: object = None


@dataclass(frozen=True)
class StateStep:
    """What the layers with a state need to know about the token batch they run in."""

    memory: StateMemory
    prepared: PreparedStates

    @classmethod
    def of(cls, memory: StateMemory, work: StateWork, device: torch.device) -> StateStep:
        """A state list made ready for a memory and its device."""
        return cls(memory, PreparedStates(work, memory.num_slots, device))


@dataclass
class AttentionStep:
    """What the attention layers need to know about the token batch they run in."""

    kv: KVPool
    slots: torch.Tensor
    """int64 [T], the pool slot each row's key and value go to."""
    prepared: object
    wanted: WantedRows | None = None
    """None: the last layer computes every row."""
    others: tuple[GroupStep, ...] = ()
    """The batch in the other groups of layers; none: all layers are as the first group's."""
    states: StateStep | None = None
    """None: no layer has a state."""

    def of(self, layer: int) -> GroupStep:
        """The batch in a layer's group."""
        group = self.kv.group_of(layer) if self.others else 0
        if group:
            return self.others[group - 1]
        wanted = None if self.wanted is None else self.wanted.prepared
        return GroupStep(self.slots, self.prepared, wanted)


@dataclass(frozen=True)
class AttentionCall:
    """What a model hands to its attention function.

    Attributes:
        module: the attention module that calls.
        query: [1, heads, T, head_dim].
        key, value: [1, kv_heads, T, dim].
        mask: as the model made it; None unless `masks_are_made`.
        scale: the factor on the scores.
        keywords: what else it hands over.
    """

    module: Any
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    scale: float
    keywords: dict[str, Any]

    @property
    def layer(self) -> int:
        """The index of the layer that calls."""
        return int(self.module.layer_idx)

    @property
    def kind(self) -> AttentionKind:
        """What its keywords ask for."""
        return _chunked(self.module, _kind(**self.keywords))


class AttentionObserver(Protocol):
    """Takes the place of a token batch, to see how a model calls its attention."""

    def observe(self, call: AttentionCall) -> torch.Tensor:
        """What the model is to take for its attention's result, [1, T, heads, value_dim]."""

    def observe_state(self, call: Any) -> torch.Tensor:
        """What it is to take for the result of a recurrent module, [1, T, hidden]; the call is a
        `StateCall`."""


@dataclass
class AttentionProbe:
    """Records how a model calls its attention, one entry per call; attends to nothing."""

    layers: list[int] = field(default_factory=list)
    modules: list[Any] = field(default_factory=list)
    """The attention module of each call."""
    head_dims: list[tuple[int, int, int]] = field(default_factory=list)
    """(kv_heads, head_dim, value_dim) of each call."""
    scales: list[float] = field(default_factory=list)
    """The factor on the scores of each call."""
    kinds: list[AttentionKind] = field(default_factory=list)
    """What each call asks for besides."""
    keywords: list[dict[str, Any]] = field(default_factory=list)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """The keys and values of each call."""

    @property
    def owners(self) -> tuple[int, ...]:
        """For each layer, in order, the first that was called with the very same keys and values.

        Itself, but for layers that reuse another's.
        """
        calls = list(zip(self.layers, self.kept, strict=True))
        owner = {
            caller: next(layer for layer, (k, v) in calls if k is key and v is value)
            for caller, (key, value) in calls
        }
        return tuple(owner.get(layer, layer) for layer in range(self._count()))

    states: list[Any] = field(default_factory=list)
    """Recurrent modules, in the order they were called."""
    num_layers: int | None = None
    """Layers of the model, if some do not attend; None: all do."""

    def _count(self) -> int:
        return len(self.layers) if self.num_layers is None else self.num_layers

    def observe_state(self, call: Any) -> torch.Tensor:
        """See `AttentionObserver`."""
        self.states.append(call.module)
        return torch.zeros_like(call.hidden)

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(kv_heads, head_dim, value_dim) by layer index; zeros where one does not attend."""
        dims = dict(zip(self.layers, self.head_dims, strict=True))
        return [dims.get(layer, (0, 0, 0)) for layer in range(self._count())]

    @property
    def windows(self) -> tuple[Window | None, ...]:
        """What each layer shows its rows, by layer index."""
        sights = dict(zip(self.layers, self.kinds, strict=True))
        found = map(sights.get, range(self._count()))
        return tuple(None if kind is None else kind.sight for kind in found)

    def observe(self, call: AttentionCall) -> torch.Tensor:
        """See `AttentionObserver`."""
        query, value = call.query, call.value
        self.layers.append(call.layer)
        self.modules.append(call.module)
        self.head_dims.append((call.key.shape[1], call.key.shape[3], value.shape[3]))
        self.scales.append(call.scale)
        self.kinds.append(call.kind)
        self.keywords.append(call.keywords)
        self.kept.append((call.key, value))
        return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


_step: ContextVar[AttentionStep | AttentionObserver | None] = ContextVar("shoal_step", default=None)


@contextmanager
def attention_step(step: AttentionStep | AttentionObserver) -> Iterator[None]:
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


def current_states() -> StateStep:
    """The states of the token batch that runs.

    Raises:
        InternalError: none does, or it has none.
    """
    states = current_step().states
    if states is None:
        raise InternalError("a token batch came without states to a model that has some")
    return states


def state_observer() -> AttentionObserver | None:
    """Who looks on instead of a token batch; None: nobody."""
    step = _step.get()
    return None if step is None or isinstance(step, AttentionStep) else step


def keeps_latents() -> bool:
    """Whether the token batch that runs, if one does, keeps latents in its pool."""
    step = _step.get()
    return isinstance(step, AttentionStep) and isinstance(step.kv.backend, LatentAttention)


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if step is not None and not isinstance(step, AttentionStep):
        call = AttentionCall(module, query, key, value, attention_mask, scale, keywords)
        return step.observe(call), None
    step = current_step()
    layer = int(module.layer_idx)
    backend, pool, rows = step.kv.backend, step.kv[layer], step.of(layer)
    if step.kv.stores(layer):
        backend.store(pool, rows.slots, key[0], value[0])
    if isinstance(backend, LatentAttention):
        # What `shoal.model.latent_layers` put in place of the module's own, and proved.
        expansion = module.expand_kv.expansion
        return backend.attend(query[0], pool, rows.prepared, scale, expansion)[None], None
    kind = _chunked(module, _kind(**keywords))
    return backend(query[0], pool, rows.prepared, scale, kind)[None], None


def _kind(
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> AttentionKind:
    """What an attention call asks for, by transformers' names; `features` refused the others."""
    if sliding_window is None and softcap is None and s_aux is None:
        return PLAIN
    return AttentionKind(sliding_window, softcap, s_aux)


def _chunked(module: Any, kind: AttentionKind) -> AttentionKind:
    """With the chunks of a module's layer, which transformers names in the config alone."""
    layer_types = getattr(getattr(module, "config", None), "layer_types", None)
    if not layer_types or layer_types[int(module.layer_idx)] != "chunked_attention":
        return kind
    return replace(kind, chunk=int(module.config.attention_chunk_size))


# No mask function goes with it: for attention without one transformers builds no mask. One that
# returns None would be asked only after the positions were searched for packed sequences, which
# reads a number back from the device in every forward (`shoal.cuda.readback`).
AttentionInterface.register(ATTENTION_NAME, _attention)


_masks_lock = threading.Lock()


@contextmanager
def masks_are_made() -> Iterator[None]:
    """In this block models make the masks they would make for attention of their own."""
    with _masks_lock:
        AttentionMaskInterface.register(ATTENTION_NAME, eager_mask)
        try:
            yield
        finally:
            # transformers has no way to take a registration back.
            del AttentionMaskInterface._global_mapping[ATTENTION_NAME]
