"""Tiny models that do not generate, saved like real ones, and transformers' answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from tests.helpers.models import ARCHITECTURES, byte_tokenizer, save_model


def appending_tokenizer() -> PreTrainedTokenizerFast:
    """Appends the end of sequence to a text, as Qwen3-Embedding's does."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def save_embedder(
    folder: Path, architecture: str, mode: str | None = None, normalize: bool = True
) -> Path:
    """A model without an output head, and what sentence-transformers says of it."""
    save_model(folder / "causal", architecture)
    model = AutoModel.from_pretrained(folder / "causal", dtype=torch.float32)
    path = folder / "embedder"
    model.save_pretrained(path)
    appending_tokenizer().save_pretrained(path)
    if mode is not None:
        parts = [("Transformer", ""), ("Pooling", "1_Pooling")]
        parts += [("Normalize", "2_Normalize")] if normalize else []
        listed = [
            {
                "idx": i,
                "name": str(i),
                "path": where,
                "type": f"sentence_transformers.x.{kind}",
            }
            for i, (kind, where) in enumerate(parts)
        ]
        (path / "modules.json").write_text(json.dumps(listed))
        (path / "1_Pooling").mkdir()
        stated = {"word_embedding_dimension": 32, "include_prompt": True}
        stated |= {f"pooling_mode_{name}": name == mode for name in ("mean_tokens", "lasttoken")}
        (path / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    return path


def save_classifier(folder: Path, architecture: str, labels: int, **changes: Any) -> Path:
    """A model with a classification head over so many classes."""
    config_class, fields = ARCHITECTURES[architecture]
    names = {i: f"class {i}" for i in range(labels)}
    config = getattr(transformers, config_class)(
        **{**fields, "num_labels": labels, "id2label": names, "pad_token_id": None, **changes}
    )
    torch.manual_seed(2)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@torch.inference_mode()
def hidden_states(folder: Path, prompt: list[int]) -> torch.Tensor:
    """The last layer's, [T, hidden]."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return model(torch.tensor([prompt])).last_hidden_state[0]


@torch.inference_mode()
def class_logits(folder: Path, prompt: list[int]) -> torch.Tensor:
    """A classification head's, [classes]."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return model(torch.tensor([prompt])).logits[0]


@torch.inference_mode()
def next_logits(folder: Path, prompt: list[int]) -> torch.Tensor:
    """A causal model's after the prompt, [vocabulary]."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(torch.tensor([prompt])).logits[0, -1]
