"""A model's layers by what they see, and what the attention of each kind costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedConfig

from shoal.costs import AttentionCost, Expanding
from shoal.model.description import ModelDescription
from shoal.model.layer_sizes import layer_sizes, stated, stored_by_layer
from shoal.model.shards import kv_shards
from shoal.work import Window


@dataclass(frozen=True)
class LayerKind:
    """The layers that see alike, ascending."""

    window: Window | None
    layers: tuple[int, ...]


def layer_kinds(
    description: ModelDescription, windows: Sequence[Window | None] | None = None
) -> list[LayerKind]:
    """The kinds of a model's layers, those that see everything first.

    Args:
        windows: of each layer, as the loaded model asks for them; None: by its config.
    """
    if windows is None:
        windows = configured_windows(description.config)
    seen = [_within(window, description.max_model_len) for window in windows]
    kinds = sorted(set(seen), key=lambda window: (window is not None, str(window)))
    return [
        LayerKind(kind, tuple(layer for layer, window in enumerate(seen) if window == kind))
        for kind in kinds
    ]


def attention_costs(
    description: ModelDescription, windows: Sequence[Window | None] | None = None
) -> tuple[AttentionCost, ...]:
    """What each kind costs; see `layer_kinds`. Empty: one kind that sees everything, no latents."""
    config = description.config
    sizes, stored = layer_sizes(config), stored_by_layer(config)
    shards = kv_shards(config, description.tensor_parallel)
    kinds = layer_kinds(description, windows)
    latent = any(size.expanding for size in sizes)
    if [kind.window for kind in kinds] == [None] and not latent:
        return ()
    found = []
    for kind in kinds:
        expanding = None
        if latent:
            ways = [
                sizes[layer].expanding or Expanding(sizes[layer].pair_flops, 0.0)
                for layer in kind.layers
            ]
            expanding = Expanding(
                sum(way.pair_flops for way in ways), sum(way.token_flops for way in ways)
            )
        numbers = sum(stored[layer] for layer in kind.layers)
        found.append(
            AttentionCost(
                kv_bytes=float(numbers * description.dtype.itemsize // shards),
                pair_flops=sum(sizes[layer].pair_flops for layer in kind.layers),
                window=kind.window,
                expanding=expanding,
            )
        )
    return tuple(found)


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
