"""Configs with unusual values: tokens equal `generate`'s, or the model is refused by what it asks.

Windows and chunks of fewer tokens than a KV block, or of no multiple of it; of one token; heads of
10 numbers; as many KV heads as query heads; a single layer; a soft cap of 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from shoal import LLM, SamplingParams
from shoal.errors import UnsupportedModelError
from tests.helpers.models import (
    ARCHITECTURES,
    FAMILIES,
    KINDS,
    LATENTS,
    LENGTHS,
    VOCABULARY,
    greedy,
    save_model,
)

NEW_TOKENS = 10
KNOWN = KINDS | LENGTHS | LATENTS | FAMILIES | ARCHITECTURES
QUICK = [("gpt_oss", "small"), ("gemma2", "47"), ("llama4", "small"), ("mistral window", "47")]
CANNOT = {
    ("vaultgemma", "single"), ("olmo3", "single"), ("gemma4 shared", "single"),
    ("gemma4 experts", "single"), ("gemma3n", "single"), ("helium", "small"),
    ("longcat_flash", "small"),
}  # fmt: skip
"""What transformers itself refuses."""


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(3)

    def tokens(count: int) -> list[int]:
        return rng.integers(2, VOCABULARY, count).tolist()

    top = tokens(37)
    inner = top + tokens(9)
    return [inner + tokens(20), inner + tokens(3), inner, tokens(2)]


def windows(family: str, tokens: int) -> dict[str, int]:
    """The family's windows or chunks, so long."""
    config_class, fields = KNOWN[family]
    config = getattr(transformers, config_class)(**fields).to_dict()
    names = "sliding_window", "attention_chunk_size"
    return {name: tokens for name in names if isinstance(config.get(name), int) and config[name]}


def changes(family: str, variant: str) -> dict[str, Any]:
    fields = KNOWN[family][1]
    if variant == "small":
        found: dict[str, Any] = windows(family, 5)
        if "num_key_value_heads" in fields and family not in LATENTS:
            found["num_key_value_heads"] = fields["num_attention_heads"]
        return found | ({"head_dim": 10} if "head_dim" in fields else {})
    if variant == "single":
        types = fields.get("layer_types")
        kept = {"layer_types": types[:1]} if isinstance(types, list) else {}
        counts = fields.keys() & {"num_hidden_layers", "num_layers"}
        return {**dict.fromkeys(counts, 1), **kept} if counts else {}
    return windows(family, int(variant))


def answers(folder: Path) -> list[list[int]]:
    llm = LLM(
        str(folder), dtype="float32", device="cpu", kv_memory="4MiB", max_num_batched_tokens=33
    )
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS)
    outputs = llm.generate(prompts(), params, use_tqdm=False)
    llm.close()
    return [list(out.outputs[0].token_ids) for out in outputs]


def cases() -> list[object]:
    every = [(family, variant) for family in KNOWN for variant in ("small", "single", "33", "47")]
    some = [case for case in every if case not in CANNOT and changes(*case)]
    return [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in some]


@pytest.mark.parametrize(("family", "variant"), cases())
def test_equals_generate(tmp_path: Path, family: str, variant: str) -> None:
    folder = save_model(tmp_path, family, **changes(family, variant))
    assert answers(folder) == [greedy(folder, prompt, NEW_TOKENS) for prompt in prompts()]


@pytest.mark.parametrize("family", ["mistral window", "llama4"])
def test_a_row_that_sees_itself_alone(tmp_path: Path, family: str) -> None:
    """As the definition says, and transformers without a cache. Its cache of the last 0 tokens,
    `keys[-0:]`, keeps them all (transformers 5.23)."""
    folder = save_model(tmp_path, family, **windows(family, 1))
    expected = [greedy(folder, prompt, NEW_TOKENS, use_cache=False) for prompt in prompts()]
    assert answers(folder) == expected


def test_a_soft_cap_of_0_is_refused(tmp_path: Path) -> None:
    """By which transformers divides; nothing but NaN comes of it."""
    folder = save_model(tmp_path, "gemma2", attn_logit_softcapping=0.0)
    with pytest.raises(UnsupportedModelError, match=r"soft cap of 0.0, .*Correct the model's"):
        LLM(str(folder), dtype="float32", device="cpu", kv_memory="1MiB")
