"""Layers are alike only if they do the same with positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from shoal.model.alike import unlike_layers
from tests.helpers.models import ARCHITECTURES, FAMILIES

LLAMA = {**ARCHITECTURES["llama"][1], "num_hidden_layers": 5}


def llama(**fields: Any) -> Any:
    return AutoModelForCausalLM.from_config(transformers.LlamaConfig(**{**LLAMA, **fields}))


def kinds(module: Any) -> list[int]:
    layers = module.model.layers
    return [list(layers).index(layer) for layer in unlike_layers(layers, module.config)]


def test_weights_and_numbers_of_layers_make_no_difference() -> None:
    assert kinds(llama()) == [0]


class Other(torch.nn.Linear):
    """Another class that does the same."""


def another_class(layer: Any) -> None:
    layer.self_attn.q_proj.__class__ = Other


def another_setting(layer: Any) -> None:
    layer.self_attn.scaling = 0.5


def another_shape(layer: Any) -> None:
    layer.mlp.gate_proj = torch.nn.Linear(32, 49)


def another_buffer(layer: Any) -> None:
    layer.self_attn.register_buffer("slopes", torch.ones(4))


def another_function(layer: Any) -> None:
    layer.self_attn.forward = layer.self_attn.forward


def another_module(layer: Any) -> None:
    layer.self_attn.extra = torch.nn.Identity()


@pytest.mark.parametrize(
    "change",
    [another_class, another_setting, another_shape, another_buffer, another_function,
     another_module],
)  # fmt: skip
def test_what_makes_a_difference(change: Callable[[Any], None]) -> None:
    module = llama()
    change(module.model.layers[3])
    assert kinds(module) == [0, 3]


def test_equal_buffers_make_none_and_others_do() -> None:
    module = llama()
    for index, layer in enumerate(module.model.layers):
        layer.self_attn.register_buffer("slopes", torch.tensor([1.0, float(index == 2)]))
    assert kinds(module) == [0, 2]


def test_the_config_may_say_something_of_each_layer() -> None:
    module = llama()
    module.config.some_kinds = ["a", "b", "a", "b", "c"]
    assert kinds(module) == [0, 1, 4]


@pytest.mark.parametrize("name", sorted({**ARCHITECTURES, **FAMILIES}))
def test_no_family_loses_a_kind_of_layer(name: str) -> None:
    """Two layers of one kind say the same of themselves when they are printed."""
    config_class, fields = {**ARCHITECTURES, **FAMILIES}[name]
    config = getattr(transformers, config_class)(**fields)
    module: Any = AutoModelForCausalLM.from_config(config)
    inner = module.base_model
    layers = next(p for p in inner.modules() if isinstance(p, torch.nn.ModuleList))
    chosen = unlike_layers(layers, config)
    said = {repr(layer) for layer in layers}
    types = set(getattr(config, "layer_types", None) or [0])
    assert len(chosen) >= max(len(said), len(types))
