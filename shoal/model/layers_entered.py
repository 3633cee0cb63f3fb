"""Watches over a model's layers while it runs: what enters them, and whether they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from shoal.model.fusion.trial import Call

Run = Callable[[torch.Tensor], Any]
"""Runs a layer with other hidden states."""


@contextmanager
def layers_entered(
    layers: list[nn.Module], enter: Callable[[nn.Module, torch.Tensor, Run], Any]
) -> Iterator[None]:
    """In this block `enter` runs the layers: it is given each, its hidden states, and what runs
    the layer with some hidden states."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _entering(layer, enter)
    try:
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            del layer.forward
            if own is not None:
                layer.forward = own


def _entering(
    layer: nn.Module, enter: Callable[[nn.Module, torch.Tensor, Run], Any]
) -> Callable[..., Any]:
    forward = layer.forward

    def entering(*args: Any, **keywords: Any) -> Any:
        call = Call(args, keywords)
        return enter(layer, call.hidden, lambda hidden: call.run(forward, hidden))

    return entering
