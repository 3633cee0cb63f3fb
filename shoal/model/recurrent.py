"""Recurrent layers of a model: found by what their code calls, and adapted to packed batches.

A layer's own forward runs, unchanged. Only the names of the functions that carry something over
from row to row stand for ours in it (`shoal.recurrence`), which call the layer's own in turn.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from shoal.errors import UnsupportedModelError
from shoal.model.hook import current_states, state_observer
from shoal.recurrence import PACKED_FUNCTIONS, LayerStates, PreparedStates, StateShape

_FOREIGN = {
    "mamba_selective_scan": "Mamba-1 layers",
    "mamba_selective_state_update": "Mamba-1 layers",
    "selective_scan_fn": "Mamba-1 layers",
}
"""What a layer's code calls that we have no function for, and what it is called in messages."""


def adapt_states(module: nn.Module, kind: str) -> None:
    """Make the recurrent layers of a model take their states from the token batch that runs.

    Args:
        kind: the model's type, for messages.

    Raises:
        UnsupportedModelError: one of them is of a kind that we have no functions for.
    """
    for part in recurrent_parts(module, kind):
        part.forward = _observed(part, _packed(part))


def recurrent_parts(module: nn.Module, kind: str) -> Iterator[Any]:
    """The modules whose code calls functions of recurrent layers.

    Raises:
        UnsupportedModelError: see `adapt_states`.
    """
    for part in module.modules():
        called = _own_forward(part).__code__.co_names
        foreign = [_FOREIGN[name] for name in called if name in _FOREIGN]
        if foreign:
            raise _no_functions(kind, foreign[0])
        if not any(name in PACKED_FUNCTIONS for name in called):
            continue
        if not hasattr(part, "layer_idx"):
            raise _no_functions(kind, "convolutions outside of its layers")
        yield part


def own_output(part: Any, hidden: torch.Tensor, cache: Any = None) -> torch.Tensor:
    """What a recurrent module gives of a sequence [1, T, hidden] run alone, by its own code.

    Args:
        cache: transformers' cache with what came before; None: nothing did.
    """
    name = "cache_params"
    if name not in inspect.signature(_own_forward(part)).parameters:
        name = "past_key_values"
    out: torch.Tensor = type(part).forward(part, hidden, **{name: cache})
    return out


@dataclass(frozen=True)
class StateCall:
    """What a recurrent module was called with: hidden states [1, T, hidden]."""

    module: Any
    hidden: torch.Tensor

    @property
    def layer(self) -> int:
        """The index of its layer."""
        return int(self.module.layer_idx)


def state_shape(part: Any, config: PreTrainedConfig) -> StateShape:
    """The shape of a recurrent module's state, found by running its code for two rows."""
    shape = StateShape()

    def taking(name: str) -> Callable[..., Any]:
        def take(*args: Any, **keywords: Any) -> Any:
            nonlocal shape
            parts, result = _called_with(name, args, keywords)
            shape = shape.with_part(**parts)
            return result

        return take

    forward = _renamed(part, {name: taking(name) for name in PACKED_FUNCTIONS})
    weight = next(part.parameters())
    with torch.inference_mode():
        forward(torch.zeros(1, 2, config.hidden_size, dtype=weight.dtype, device=weight.device))
    return shape


def _called_with(name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return PACKED_FUNCTIONS[name].shape(*args, **keywords)


def _packed(part: Any) -> Callable[..., Any]:
    layer, names = int(part.layer_idx), _own_forward(part).__globals__

    def current() -> tuple[LayerStates, PreparedStates]:
        step = current_states()
        return step.memory[layer], step.prepared

    return _renamed(
        part,
        {
            name: packed.make(names[name], names.get(packed.step, names[name]), current)
            for name, packed in PACKED_FUNCTIONS.items()
            if name in names
        },
    )


def _observed(part: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(hidden_states: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        observer = state_observer()
        if observer is not None:
            return observer.observe_state(StateCall(part, hidden_states))
        for name in ("cache_params", "past_key_values"):
            keywords.pop(name, None)  # in a packed batch it only tells positions
        out: torch.Tensor = forward(hidden_states, *args, **keywords)
        return out

    return run


def _own_forward(part: nn.Module) -> Any:
    return inspect.unwrap(type(part).forward)


def _renamed(part: Any, functions: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """A module's own forward, in which some global names mean something else."""
    own = _own_forward(part)
    names = {**own.__globals__, **functions}
    code = FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    code.__kwdefaults__ = own.__kwdefaults__
    return MethodType(code, part)


def _no_functions(kind: str, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        what,
        f"models of type {kind!r} have {what}, which Shoal does not run in packed batches yet. Use "
        "another model.",
    )
