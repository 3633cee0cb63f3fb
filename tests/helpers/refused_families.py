"""Families that are refused: what their configs ask for is not honoured."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.helpers.models import ARCHITECTURES, byte_tokenizer

_LLAMA = ARCHITECTURES["llama"][1]
_SMALL = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": 1}
REFUSED_FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "bert": ("BertConfig", {**_SMALL, "num_attention_heads": 4}),
    "bloom": ("BloomConfig", {**_SMALL, "n_head": 4, "n_layer": 2}),
    "mpt": ("MptConfig", {"vocab_size": 256, "d_model": 32, "n_layers": 2, "n_heads": 4}),
    "falcon with ALiBi": ("FalconConfig", {**_SMALL, "num_attention_heads": 4, "alibi": True}),
    "falcon 7b": ("FalconConfig", {**_SMALL, "num_attention_heads": 4, "alibi": False}),
    "gptj": (
        "GPTJConfig",
        {"vocab_size": 256, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
         "rotary_dim": 4},
    ),
    "t5": ("T5Config", {"vocab_size": 256, "d_model": 32, "num_layers": 2}),
    "deepseek_v32": ("DeepseekV32Config", {}),
    "deepseek_v4": ("DeepseekV4Config", {}),
    "glm_moe_dsa": ("GlmMoeDsaConfig", {}),
    "modernbert": ("ModernBertConfig", {**_SMALL, "num_attention_heads": 4}),
    "jamba": ("JambaConfig", {}),
    "minimax": ("MiniMaxConfig", {}),
    "mamba": ("MambaConfig", {**_SMALL, "state_size": 4}),
    "mamba2": ("Mamba2Config", {}),
    "mllama": ("MllamaConfig", {}),
}  # fmt: skip
"""Most are refused by their config, before any weight is read."""

WITH_WEIGHTS = ("bert", "falcon 7b", "gptj")
"""Only what they do shows it."""


def save_refused(folder: Path, family: str) -> Path:
    """Write a config and a tokenizer into `folder`, and weights where they matter."""
    config_class, fields = REFUSED_FAMILIES[family]
    config = getattr(transformers, config_class)(**fields)
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    if family in WITH_WEIGHTS:
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder
