"""Which attention features we honour, and the refusal of those we do not.

The first two functions read the config before any weight is loaded; `refuse_unknown_keyword` sees
what a model asks of its attention function. Both find better words than the proof that decides,
`shoal.model.alone`: a model is never run on attention that differs from its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig

from shoal.errors import UnsupportedModelError
from shoal.model.layer_sizes import RECURRENT_LAYERS, attending

_ALIBI_MODELS = {"bloom", "mpt"}
_KNOWN_LAYERS = {"full_attention", "sliding_attention", "chunked_attention", "mlp", "moe"}
_KNOWN_LAYERS |= RECURRENT_LAYERS
_SPARSE_LAYERS = {"indexed_attention", "compressed_sparse_attention", "minimax_m3_sparse"}
_SPARSE_LAYERS |= {"heavily_compressed_attention"}
_RECURRENT_LAYERS = {"mamba", "recurrent"}
_HONOURED: dict[str, Callable[[Any], bool]] = {
    "sliding_window": lambda value: type(value) is int and value > 0,
    "softcap": lambda value: isinstance(value, int | float) and value > 0,
    "s_aux": lambda value: isinstance(value, torch.Tensor) and value.dim() == 1,
}
"""Keywords of `AttentionKind`, and the values they may have."""
_WORDS = {"sliding_window": "a window", "softcap": "a soft cap", "s_aux": "sinks"}
_VALUES = {"sliding_window": "at least 1", "softcap": "above 0", "s_aux": "a number per head"}
_HARMLESS_KEYWORDS = {
    "is_causal",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "position_ids",
    "cache_position",
    "past_key_values",
    "layer_idx",
    "logits_to_keep",
}


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Raise `UnsupportedModelError`, naming the feature, if the config asks for one we lack."""
    kind = config.model_type
    if config.is_encoder_decoder:
        raise _refusal(kind, "encoder-decoder attention")
    if not hasattr(config, "num_attention_heads"):
        raise _none_attends(kind)
    _refuse_other_memory(config)
    if kind in _ALIBI_MODELS or getattr(config, "alibi", False):
        raise _refusal(kind, "ALiBi position biases")
    if getattr(config, "is_causal", True) is False:
        raise _refusal(kind, "bidirectional attention")


def _refuse_other_memory(config: PreTrainedConfig) -> None:
    """Refuse layers that keep something else of earlier tokens than their keys and values."""
    kind = config.model_type
    layers = set(getattr(config, "layer_types", None) or ())
    sparse = sorted(layers & _SPARSE_LAYERS)
    if sparse or getattr(config, "index_topk", None):
        which = f" ({', '.join(sparse)})" if sparse else ""
        raise UnsupportedModelError(
            "sparse attention by an indexer",
            f"models of type {kind!r} use sparse attention by an indexer{which}: a small attention "
            "of its own chooses for each token which earlier ones it sees. Shoal would need its "
            "keys in the KV pool, and kernels that read chosen tokens of shared segments. Use "
            "another model.",
        )
    other = sorted(layers - _KNOWN_LAYERS)
    if other:
        recurrent = [layer for layer in other if layer in _RECURRENT_LAYERS]
        feature = "recurrent layers" if recurrent else "layers of an unknown kind"
        raise _refusal(kind, f"{feature} ({', '.join(recurrent or other)})")
    if not any(attending(config, int(config.num_hidden_layers))):
        raise _none_attends(kind)
    if getattr(config, "cross_attention_layers", None):
        raise _refusal(kind, "cross-attention to images")


def refuse_unknown_keyword(kind: str, keywords: dict[str, Any]) -> None:
    """Raise `UnsupportedModelError` for any keyword of an attention call that we do not honour."""
    for name, value in keywords.items():
        if value is None or value is False or name in _HARMLESS_KEYWORDS:
            continue
        if name == "dropout":
            if value > 0:
                raise _refusal(kind, "attention dropout")
        elif name not in _HONOURED:
            raise _refusal(kind, f"the attention keyword {name!r}")
        elif not _HONOURED[name](value):
            shown = tuple(value.shape) if isinstance(value, torch.Tensor) else value
            raise UnsupportedModelError(
                f"{_WORDS[name]} that means nothing",
                f"models of type {kind!r} have attention with {_WORDS[name]} of {shown}, which "
                f"means nothing: it has to be {_VALUES[name]}. Correct the model's config.",
            )


def _none_attends(model_type: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "recurrent layers alone",
        f"models of type {model_type!r} have recurrent layers alone, and none that attends. Shoal "
        "runs such layers only in models that attend, too. Use another model.",
    )


def _refusal(model_type: str, feature: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        feature,
        f"models of type {model_type!r} use {feature}, which Shoal's attention does not honour; "
        "running it anyway would give wrong answers. Use another model.",
    )
