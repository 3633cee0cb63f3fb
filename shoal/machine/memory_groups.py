"""A model's layers by the kind of their memory."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedConfig

from shoal.config import EngineOptions
from shoal.costs import MemoryGroup
from shoal.model.description import ModelDescription
from shoal.model.layer_sizes import layer_sizes, stated, stored_by_layer
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
    config = description.config
    if windows is None:
        windows = configured_windows(config)
    seen = [_within(window, description.max_model_len) for window in windows]
    kinds = sorted(set(seen), key=lambda window: (window is not None, str(window)))
    if kinds == [None]:
        return ()
    sizes, stored = layer_sizes(config), stored_by_layer(config)
    shards = kv_shards(config, description.tensor_parallel)
    groups = []
    for kind in kinds:
        layers = tuple(layer for layer, window in enumerate(seen) if window == kind)
        numbers = sum(stored[layer] for layer in layers)
        flops = sum(sizes[layer].pair_flops for layer in layers)
        bytes_ = float(numbers * description.dtype.itemsize // shards)
        groups.append(
            MemoryGroup(layers=layers, kv_bytes=bytes_, attention_flops=flops, window=kind)
        )
    return tuple(groups)


def configured_windows(config: PreTrainedConfig) -> list[Window | None]:
    """What a config says that each layer shows; a run goes by what the loaded model asks for."""
    layers = int(config.num_hidden_layers)
    window, chunk = stated(config, "sliding_window"), stated(config, "attention_chunk_size")
    types = getattr(config, "layer_types", None)
    if types is None:
        off = getattr(config, "use_sliding_window", True) is False
        types = ["full_attention" if off else "sliding_attention"] * layers
    kinds = {
        "sliding_attention": Window(window) if isinstance(window, int) else None,
        "chunked_attention": Window(chunk, chunked=True) if isinstance(chunk, int) else None,
    }
    return [kinds.get(kind) for kind in types]


def _within(window: Window | None, tokens: int) -> Window | None:
    return window if window is not None and window.tokens < tokens else None
