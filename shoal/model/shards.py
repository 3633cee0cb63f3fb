"""Whether a model can be split over N devices, read off its config before any weight is loaded.

transformers splits the projections of a layer by the plan of the model's config
(`base_model_tp_plan`): by columns where the output is divided, which for queries, keys and values
means by heads, and by rows where the partial outputs are summed over the devices.
"""

from __future__ import annotations

import math

from transformers import PreTrainedConfig

from shoal.errors import OptionError, UnsupportedModelError

_KEY_PROJECTIONS = {"k_proj", "qkv_proj", "query_key_value"}
"""Names of the projections that make keys, alone or with queries and values."""


def kv_shards(config: PreTrainedConfig, parts: int) -> int:
    """Over how many of `parts` devices the KV heads are divided: all of them, or 1 if each has all.

    Plans that gather the keys again (Phi-3 slices a fused projection, OLMo 2 normalises over all
    heads) leave attention whole on every device.
    """
    return parts if parts > 1 and _splits_heads(config) else 1


def refuse_unsplittable(config: PreTrainedConfig, parts: int) -> None:
    """Check that a model can be split over `parts` devices.

    Raises:
        UnsupportedModelError: transformers has no plan for this architecture.
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
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    common = math.gcd(heads, kv_heads)
    if not _splits_heads(config) or common % parts == 0:
        return
    possible = [str(n) for n in range(2, common + 1) if common % n == 0]
    remedy = f"give {_either(possible)}" if possible else "this model cannot be split"
    raise OptionError(
        f"tensor_parallel {parts} does not divide the heads of this model, which has {heads} query "
        f"heads and {kv_heads} KV heads: {remedy}."
    )


def _splits_heads(config: PreTrainedConfig) -> bool:
    plan: dict[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    return any(
        name.rsplit(".", 1)[-1] in _KEY_PROJECTIONS and style == "colwise"
        for name, style in plan.items()
    )


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
