"""Tiny random checkpoints that hold towers besides a language model, saved like real ones."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForImageTextToText

from tests.helpers.models import ARCHITECTURES, FAMILIES, KINDS, byte_tokenizer
from tests.helpers.recurrent_models import RECURRENT

_LLAMA = ARCHITECTURES["llama"][1]
_VIT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
_SIGLIP = {"model_type": "siglip_vision_model", **_VIT}
_PIXTRAL = {"model_type": "pixtral", **_VIT, "head_dim": 8}
_QWEN_VIT = {"hidden_size": 32, "depth": 1, "intermediate_size": 16, "num_heads": 2,
             "patch_size": 14, "out_hidden_size": 32, "num_position_embeddings": 16,
             "deepstack_visual_indexes": [0], "fullatt_block_indexes": [0]}  # fmt: skip
_IMAGE = {"image_token_id": 5, "image_token_index": 5}
_QWEN_IMAGE = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7,
               "vision_end_token_id": 8}  # fmt: skip
_MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
_QWEN3 = {**_LLAMA, "head_dim": 8, "rope_parameters": {**_MROPE, "mrope_interleaved": True}}
COMPOSITES: dict[str, tuple[str, dict[str, object]]] = {
    "mistral3": (
        "Mistral3Config",
        {"text_config": {"model_type": "mistral", **_LLAMA, "head_dim": 8, "sliding_window": 16},
         "vision_config": _PIXTRAL, **_IMAGE},
    ),
    "mistral3 of ministral3": (
        "Mistral3Config",
        {"text_config": {"model_type": "ministral3", **FAMILIES["ministral3"][1]},
         "vision_config": _PIXTRAL, **_IMAGE},
    ),
    "gemma3": (
        "Gemma3Config",
        {"text_config": KINDS["gemma3"][1], "vision_config": _SIGLIP, "mm_tokens_per_image": 4,
         **_IMAGE},
    ),
    "qwen3_vl": (
        "Qwen3VLConfig", {"text_config": _QWEN3, "vision_config": _QWEN_VIT, **_QWEN_IMAGE}
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoeConfig",
        {"text_config": {**_QWEN3, "moe_intermediate_size": 24, "num_experts": 4,
                         "num_experts_per_tok": 2},
         "vision_config": _QWEN_VIT, **_QWEN_IMAGE},
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLConfig",
        {"text_config": {**_LLAMA, "rope_parameters": _MROPE}, "vision_config": _QWEN_VIT,
         **_QWEN_IMAGE},
    ),
    "qwen2_vl": (
        "Qwen2VLConfig",
        {"text_config": {**_LLAMA, "rope_parameters": _MROPE},
         "vision_config": {**_QWEN_VIT, "embed_dim": 16}, **_QWEN_IMAGE},
    ),
    "llava": (
        "LlavaConfig",
        {"text_config": {"model_type": "llama", **_LLAMA},
         "vision_config": {"model_type": "clip_vision_model", **_VIT}, **_IMAGE},
    ),
    "internvl": (
        "InternVLConfig",
        {"text_config": {"model_type": "qwen2", **_LLAMA},
         "vision_config": {"model_type": "internvl_vision", **_VIT}, **_IMAGE},
    ),
    "aya_vision": (
        "AyaVisionConfig",
        {"text_config": {"model_type": "cohere2", **KINDS["cohere2"][1]},
         "vision_config": _SIGLIP, **_IMAGE},
    ),
    "smolvlm": (
        "SmolVLMConfig",
        {"text_config": {"model_type": "llama", **_LLAMA}, "vision_config": _VIT,
         "scale_factor": 1, **_IMAGE},
    ),
    "llama4": (
        "Llama4Config",
        {"text_config": KINDS["llama4"][1],
         "vision_config": {**_VIT, "vision_output_dim": 16, "projector_input_dim": 16,
                           "projector_output_dim": 16, "intermediate_size": 64}, **_IMAGE},
    ),
    "gemma4": ("Gemma4Config", {"text_config": KINDS["gemma4 shared"][1], "vision_config": _VIT}),
    "qwen3_5": (
        "Qwen3_5Config",
        {"text_config": RECURRENT["qwen3_5"][1],
         "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
                           "out_hidden_size": 32, "patch_size": 14},
         "image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7,
         "vision_end_token_id": 8},
    ),
}  # fmt: skip
REFUSED_COMPOSITES: dict[str, tuple[str, dict[str, object]]] = {
    "paligemma": (
        "PaliGemmaConfig",
        {"text_config": {"model_type": "gemma", **_LLAMA, "head_dim": 8},
         "vision_config": {**_SIGLIP, "projection_dim": 32}, "projection_dim": 32,
         "hidden_size": 32, **_IMAGE},
    ),
}  # fmt: skip


def save_composite(folder: Path, family: str) -> Path:
    """Write a random checkpoint with its towers, a tokenizer and a config into `folder`."""
    config_class, fields = (COMPOSITES | REFUSED_COMPOSITES)[family]
    config = getattr(transformers, config_class)(**copy.deepcopy(fields))
    torch.manual_seed(1)
    # transformers leaves this function without types.
    model = AutoModelForImageTextToText.from_config(config).float()  # type: ignore[no-untyped-call]
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@cache
def _oracle(folder: Path) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def greedy_composite(folder: Path, prompt: list[int], max_new_tokens: int) -> list[int]:
    """What transformers' own composite model, towers and all, generates of a text."""
    return list(_greedy_composite(folder, tuple(prompt), max_new_tokens))


@cache
def _greedy_composite(folder: Path, prompt: tuple[int, ...], max_new_tokens: int) -> list[int]:
    with torch.inference_mode():
        # A module whose class transformers chose: mypy cannot know its generate.
        out = _oracle(folder).generate(  # type: ignore[operator]
            torch.tensor([prompt]), max_new_tokens=max_new_tokens, do_sample=False
        )
    return out[0, len(prompt) :].tolist()
