"""A model's layers, and which memories of earlier tokens each of them reads.

A memory is what one attention module keeps, by the module's index. Most layers have one. Those that
do not attend have none, and LongCat-Flash's, which attend twice, have two.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def layers_with_memories(
    module: nn.Module, attending: Iterable[int]
) -> dict[nn.Module, frozenset[int]]:
    """The layers of a model in order, with the indices of the attention modules in each.

    They are the first list of modules that holds every attention module once, below its entries.

    Args:
        attending: the indices of all attention modules.

    Returns:
        {} where no such list is.
    """
    wanted = sorted(attending)
    for parts in module.modules():
        if not isinstance(parts, nn.ModuleList):
            continue
        found = {layer: _indices(layer).intersection(wanted) for layer in parts}
        if sorted(index for indices in found.values() for index in indices) == wanted:
            return found
    return {}


def _indices(layer: nn.Module) -> frozenset[int]:
    """Those of its parts; its own is its place among the layers, which may be another."""
    parts = (part for part in layer.modules() if part is not layer)
    indices = (getattr(part, "layer_idx", None) for part in parts)
    return frozenset(index for index in indices if isinstance(index, int))
