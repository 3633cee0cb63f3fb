"""Random LoRA adapters of tiny models, made and run by peft."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_adapter(
    folder: Path,
    model: Path,
    seed: int,
    targets: Sequence[str] | str = "all-linear",
    stored: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """An adapter of random matrices, large enough to change what is generated.

    Args:
        stored: number format of its file.
    """
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wanted = targets if isinstance(targets, str) else list(targets)
    asked = LoraConfig(task_type="CAUSAL_LM", target_modules=wanted, **config)
    adapted = get_peft_model(base, asked)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                width = weight.shape[1]
                weight.copy_(torch.randn(weight.shape, generator=generator) * width**-0.5)
    adapted.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    save_file({name: weight.to(stored) for name, weight in load_file(file).items()}, file)
    return folder


def peft_greedy(
    model: Path, adapter: Path | None, prompts: Sequence[list[int]], max_tokens: int
) -> list[list[int]]:
    """What transformers generates with peft's adapter, one prompt at a time."""
    module: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter is not None:
        module = PeftModel.from_pretrained(module, str(adapter))
    module.eval()
    found = []
    for prompt in prompts:
        with torch.inference_mode():
            out = module.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=max_tokens,
                pad_token_id=1,
            )
        found.append(out[0, len(prompt) :].tolist())
    return found
