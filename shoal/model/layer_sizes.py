"""Heads of a model's layers by its config; some families have layers of several sizes."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from shoal.costs import Expanding


@dataclass(frozen=True)
class LayerSizes:
    """Heads of one layer's attention.

    Attributes:
        latent_rank: numbers of the latent (MLA) that is kept of a token instead of keys and values;
            0: none is. The key part for all heads, which is kept beside it, is `head_dim` long.
        plain_dim, value_dim: numbers of a head's key and value that are made of a latent.
    """

    heads: int
    kv_heads: int
    head_dim: int
    latent_rank: int = 0
    plain_dim: int = 0
    value_dim: int = 0

    @property
    def kv_numbers(self) -> int:
        """Numbers that the KV pool holds of a token."""
        if self.latent_rank:
            return self.latent_rank + self.head_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def pair_flops(self) -> float:
        """FLOP for a query token and a KV token: products with the key, and with the value."""
        if self.latent_rank:
            # Absorbed: keys of latent and rotated part, the latent as value.
            return 2.0 * self.heads * (2 * self.latent_rank + self.head_dim)
        return 4.0 * self.heads * self.head_dim

    @property
    def expanding(self) -> Expanding | None:
        """What it costs to make keys and values of latents; None: there are none."""
        if not self.latent_rank:
            return None
        return Expanding.of(
            self.heads, self.plain_dim, self.head_dim, self.latent_rank, self.value_dim
        )


RECURRENT_LAYERS = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
"""transformers' names of layers that keep a state of a fixed size; hybrid ones attend, too."""
_NOT_ATTENDING = {"linear_attention", "conv", "moe", "mlp"}
"""Those of layers that do not attend."""


def layer_sizes(config: PreTrainedConfig) -> list[LayerSizes]:
    """The sizes of each layer, in order; all 0 of one that does not attend."""
    layers = int(config.num_hidden_layers)
    if not config.is_heterogeneous:
        own, none = _sizes(config), LayerSizes(0, 0, 0)
        return [own if attends else none for attends in attending(config, layers)]
    return [_sizes(config.per_layer_config[layer]) for layer in range(layers)]


def stored_numbers(config: PreTrainedConfig) -> int:
    """Numbers of a token's keys and values; layers that reuse another layer's store none."""
    return sum(stored_by_layer(config))


def stored_by_layer(config: PreTrainedConfig) -> list[int]:
    """Numbers of a token's keys and values in each layer; 0 where it reuses another's."""
    sizes = layer_sizes(config)
    modes = getattr(config, "kv_sharing_modes", None) or [None] * len(sizes)
    return [
        0 if mode == "reuse" else layer.kv_numbers for layer, mode in zip(sizes, modes, strict=True)
    ]


def attending(config: PreTrainedConfig, layers: int) -> list[bool]:
    """Which of so many layers attend, as the config says."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    return [kind not in _NOT_ATTENDING for kind in kinds[:layers]]


def has_states(config: PreTrainedConfig) -> bool:
    """Whether some layers keep a state of a fixed size, as the config says."""
    return bool(RECURRENT_LAYERS & set(getattr(config, "layer_types", None) or ()))


def stated(config: PreTrainedConfig, name: str) -> object:
    """A config's field, None if it has none; of one that differs between layers the first's."""
    if config.is_heterogeneous and name in (config.per_layer_attributes or ()):
        config = config.per_layer_config[0]
    return getattr(config, name, None)


def _sizes(config: PreTrainedConfig) -> LayerSizes:
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    rank = getattr(config, "kv_lora_rank", None)
    if rank:
        made = int(config.qk_nope_head_dim), int(config.v_head_dim)
        return LayerSizes(heads, 1, int(config.qk_rope_head_dim), int(rank), *made)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return LayerSizes(heads, kv_heads, head_dim)
