"""Whether a model can be split over N devices, read off its config before any weight is loaded.

transformers splits the projections of a layer by the plan of the model's config
(`base_model_tp_plan`): by columns where the output is divided, which for queries, keys and values
means by heads, and by rows where the partial outputs are summed over the devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from transformers import PreTrainedConfig

from shoal.errors import OptionError, UnsupportedModelError
from shoal.model.layer_sizes import layer_sizes

_KEY_PROJECTIONS = {"k_proj", "qkv_proj", "query_key_value"}
"""Names of the projections that make keys, alone or with queries and values."""


_INDIVISIBLE = {
    "gemma3n_text": "its MLPs keep the largest activations of a width that would be divided",
    "gemma4": "its forward reads a token's row of the embeddings, which would be divided",
    "qwen3_vl_moe": "transformers does not divide its experts' weights as they are stored",
}
"""Composite families, or their language models, that transformers' plan does not divide rightly."""


def kv_shards(config: PreTrainedConfig, parts: int) -> int:
    """Over how many of `parts` devices the KV heads are divided: all of them, or 1 if each has all.

    Plans that gather the keys again (Phi-3 slices a fused projection, OLMo 2 normalises over all
    heads) leave attention whole on every device.
    """
    return parts if parts > 1 and _splits_heads(config) else 1


def refuse_unsplittable(
    config: PreTrainedConfig, parts: int, whole: PreTrainedConfig | None = None
) -> None:
    """Check that a model can be split over `parts` devices.

    Args:
        whole: the config of a checkpoint that has towers besides.

    Raises:
        UnsupportedModelError: transformers has no plan for this architecture, or a wrong one.
        OptionError: `parts` does not divide the heads.
    """
    if parts == 1:
        return
    kind = config.model_type
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedModelError(
            "tensor parallelism of latents",
            f"models of type {kind!r} keep one latent of each token (MLA), which every device "
            "would have to hold whole: Shoal does not split them. Run it on one device, or several "
            "copies of it with --devices.",
        )
    if not getattr(config, "base_model_tp_plan", None):
        raise UnsupportedModelError(
            "tensor parallelism",
            f"transformers has no tensor parallel plan for models of type {kind!r}. Run it on one "
            "device, or several copies of it with --devices.",
        )
    for each in (whole or config, config):
        reason = _INDIVISIBLE.get(each.model_type)
        if reason is not None:
            raise UnsupportedModelError(
                "tensor parallelism",
                f"models of type {each.model_type!r} cannot be split: {reason}. Run it on one "
                "device, or several copies of it with --devices.",
            )
    sizes = layer_sizes(config)
    common = math.gcd(*(number for size in sizes for number in (size.heads, size.kv_heads)))
    if not _splits_heads(config) or common % parts == 0:
        return
    possible = [str(n) for n in range(2, common + 1) if common % n == 0]
    remedy = f"give {_either(possible)}" if possible else "this model cannot be split"
    raise OptionError(
        f"tensor_parallel {parts} does not divide the heads of this model, which has "
        f"{_counts(size.heads for size in sizes)} query heads and "
        f"{_counts(size.kv_heads for size in sizes)} KV heads: {remedy}."
    )


def _splits_heads(config: PreTrainedConfig) -> bool:
    plan: dict[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    return any(
        name.rsplit(".", 1)[-1] in _KEY_PROJECTIONS and style == "colwise"
        for name, style in plan.items()
    )


def _counts(numbers: Iterable[int]) -> str:
    return " or ".join(map(str, sorted(set(numbers))))


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
