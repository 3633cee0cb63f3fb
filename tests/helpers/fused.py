"""Which architectures get which fused modules, and models with and without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shoal.config import EngineOptions
from shoal.kernels import load_kernels
from shoal.model import load as loading
from shoal.model.description import ModelDescription
from shoal.model.fusion import linear, trial
from shoal.model.load import LoadedModel, prepare_model

needs_kernels = pytest.mark.skipif(load_kernels() is None, reason="the C++ kernels are not built")
needs_packing = pytest.mark.skipif(
    not linear.can_pack(torch.bfloat16, torch.bfloat16),
    reason="oneDNN has no bfloat16 products here",
)

CPU = torch.device("cpu")
WHOLE = {"norm": 5, "mlp": 2, "attention": 2, "layer": 2}
FUSED = {
    "llama": WHOLE,
    "qwen2": WHOLE,
    "qwen3": {**WHOLE, "norm": 9},
    "mistral": WHOLE,
    "phi3": WHOLE,
    "gemma": WHOLE,
    # Norms of whole queries and keys, after attention and MLP instead of before.
    "olmo2": {"norm": 9, "mlp": 2},
    # Residuals are multiplied.
    "granite": {"norm": 5, "mlp": 2, "attention": 2},
    # Products that are no linear layers, or of interleaved heads.
    "gpt2": {},
    "gpt_neox": {},
    # Experts are left as they are.
    "mixtral": {"norm": 5, "attention": 2, "layer": 2},
    "qwen3_moe": {"norm": 9, "attention": 2, "layer": 2},
    "qwen2_moe": WHOLE,
    "smollm3": WHOLE,
    # LayerNorms; an MLP without gate.
    "starcoder2": {"attention": 2, "layer": 2},
    # LayerNorms; attention and MLP side by side.
    "cohere": {"mlp": 2, "attention": 2},
    # LayerNorms.
    "stablelm": {"mlp": 2, "attention": 2, "layer": 2},
}
PACKED = {"olmo2": 9, "gpt_neox": 9, "qwen2_moe": 3, "starcoder2": 5}
"""Linear layers packed on their own, in bfloat16; of the others only the head."""

SELECTS_ROWS = {name for name, fused in FUSED.items() if "layer" in fused}
"""Models whose last layer computes only the rows whose logits are wanted."""

WIDE = {"llama", "qwen2", "qwen3", "mistral", "phi3", "gemma", "smollm3"}
"""Models whose hidden states stay in float32 where their products are: every part is ours."""

ROUTED = {"mixtral", "qwen3_moe", "qwen2_moe"}
"""A router's choice may turn on a rounding, and then logits are not near."""


def description_of(folder: Path, dtype: str) -> ModelDescription:
    return ModelDescription.load(str(folder), EngineOptions(dtype=dtype, device="cpu"))


def unfused(folder: Path, dtype: str) -> tuple[LoadedModel, ModelDescription]:
    description = description_of(folder, dtype)
    return prepare_model(loading._read_weights(description), description), description


def logits(model: LoadedModel, description: ModelDescription) -> torch.Tensor:
    with torch.inference_mode():
        return trial.Trial(model.layers, description).run(model.logits)
