"""A model's layers by the kind of their memory."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.config import EngineOptions
from shoal.costs import MemoryGroup
from shoal.machine.layer_kinds import layer_kinds
from shoal.model.description import ModelDescription
from shoal.model.layer_sizes import stored_by_layer
from shoal.model.shards import kv_shards
from shoal.work import Window


def memory_groups(
    description: ModelDescription,
    options: EngineOptions,
    windows: Sequence[Window | None] | None = None,
) -> tuple[MemoryGroup, ...]:
    """The groups in which KV is kept, layers that see everything first; empty: all in one.

    On CUDA, and of a model in several processes, all layers are kept in one: graphs and commands
    hold one list of blocks. So they are where the option says so.

    Args:
        windows: of each layer, as the loaded model asks for them; None: by its config.
    """
    single = description.device.type == "cuda" or description.tensor_parallel > 1
    if single or options.disable_hybrid_kv_cache_manager:
        return ()
    kinds = layer_kinds(description, windows)
    if [kind.window for kind in kinds] == [None]:
        return ()
    config = description.config
    stored, shards = stored_by_layer(config), kv_shards(config, description.tensor_parallel)
    groups = []
    for kind in kinds:
        numbers = sum(stored[layer] for layer in kind.layers)
        bytes_ = float(numbers * description.dtype.itemsize // shards)
        groups.append(MemoryGroup(layers=kind.layers, kv_bytes=bytes_, window=kind.window))
    return tuple(groups)
