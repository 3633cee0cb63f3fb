"""Tokenizers that write a space as ▁, trained in memory, with each decoder such models have."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.helpers.models import save_model

KINDS = ["llama", "gemma", "metaspace-first", "metaspace-always"]
SPECIAL = ["<unk>", "<s>", "</s>"]
TEXT = "see the fish swim in the sea; the fish see the sea, and swim. naïve fishes swim further"


@cache
def metaspace_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer that writes <s> before prompts.

    "llama" drops a text's first space when it decodes, "gemma" keeps it, and both write unknown
    characters as bytes; the others are Unigram models with a Metaspace decoder. Made once:
    training numbers equal pieces as it comes.
    """
    if kind in ("llama", "gemma"):
        tokenizer = Tokenizer(_byte_pairs())
        strip = [decoders.Strip(" ", 1, 0)] if kind == "llama" else []
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
        )
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    else:
        scheme = kind.removeprefix("metaspace-")
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        trainer = trainers.UnigramTrainer(
            vocab_size=80, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
        tokenizer.train_from_iterator([TEXT] * 8, trainer)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _byte_pairs() -> models.BPE:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=110, special_tokens=SPECIAL, show_progress=False)
    trained.train_from_iterator([TEXT] * 8, trainer)
    state = json.loads(trained.to_str())["model"]
    vocab, merges = state["vocab"], [tuple(merge) for merge in state["merges"]]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    return models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>")


def save_metaspace_model(folder: Path, kind: str) -> Path:
    """A random llama with such a tokenizer, which says words rather than bytes."""
    tokenizer = metaspace_tokenizer(kind)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    save_model(folder, "llama", vocab_size=len(tokenizer), **ids)
    weights = load_file(folder / "model.safetensors")
    for piece, token in tokenizer.get_vocab().items():
        if piece.startswith("<"):
            weights["lm_head.weight"][token] = 0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    return folder
