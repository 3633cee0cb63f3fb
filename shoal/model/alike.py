"""Which layers of a model are alike, so that one of them shows what all do with positions."""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

_PLAIN = (bool, int, float, str, type(None), torch.dtype)
_CALLED = (FunctionType, MethodType, type)
_OF_ALL = vars(nn.Module()).keys() | {"layer_idx"}


def unlike_layers(layers: Sequence[nn.Module], config: PreTrainedConfig) -> list[nn.Module]:
    """The first layer of each kind.

    Layers are alike if they are made of the same classes with the same settings, shapes and
    buffers, and the config says the same of them and of what attends in them. Weights may differ,
    and the layer's number.
    """
    of_each = _said_of_each(config, len(layers))
    first: list[tuple[Any, list[torch.Tensor], nn.Module]] = []
    for index, layer in enumerate(layers):
        look = [says[index] for says in of_each], _look(layer)
        buffers = list(layer.buffers())
        if not any(look == other and _equal(buffers, theirs) for other, theirs, _ in first):
            first.append((look, buffers, layer))
    return [layer for _, _, layer in first]


def _said_of_each(config: PreTrainedConfig, layers: int) -> list[Sequence[Any]]:
    """Lists of the config, such as `layer_types`, cut into what each layer has of them.

    A layer has as many entries of one as there are attention modules in it, or one.
    """
    text = config.get_text_config()
    entries = {1, text.num_hidden_layers // layers}
    return [
        [value[layer * each : (layer + 1) * each] for layer in range(layers)]
        for value in vars(text).values()
        for each in entries
        if isinstance(value, list | tuple) and len(value) == layers * each
    ]


def _look(layer: nn.Module) -> list[Any]:
    shapes = [(name, weight.shape) for name, weight in layer.named_parameters()]
    return [shapes, [(name, type(part), _settings(part)) for name, part in layer.named_modules()]]


def _settings(part: nn.Module) -> dict[str, Any]:
    """A module's own attributes, but for its layer's number; of other objects only their type."""
    own = vars(part).keys() - _OF_ALL
    return {name: _setting(vars(part)[name]) for name in own}


def _setting(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_setting(each) for each in value]
    return value if isinstance(value, _PLAIN + _CALLED) else type(value)


def _equal(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))
