"""Models of known shape with random weights, saved like real ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

MAX_MODEL_LEN = 8192
"""Most tokens of prompt and output together, for every model and every engine."""


@dataclass(frozen=True)
class ModelShape:
    """What a decoder's work depends on, in elements.

    `linear_heads`: of layers with a gated delta rule, which all are but every `full_every`-th
    (0: none is). `window`: what layers see, but for every `full_every`-th, which sees everything.
    Of `experts` (0: there is one MLP) a token meets `active`. `vocabulary` counts the rows of the
    output head, which may be tied to the embedding.
    """

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool = True
    window: int | None = None
    full_every: int = 1
    experts: int = 0
    active: int = 1
    linear_heads: int = 0

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the products of a layer with attention, those that share an input as one.

        Models with layers of a gated delta rule gate what their attention gives too.
        """
        queries = self.heads * (2 if self.linear_heads else 1)
        qkv = (queries + 2 * self.kv_heads) * self.head_dim
        return {
            "qkv": (self.hidden, qkv),
            "attention output": (self.heads * self.head_dim, self.hidden),
            "gate and up": (self.hidden, 2 * self.active * self.intermediate),
            "down": (self.active * self.intermediate, self.hidden),
        }

    @property
    def layer_types(self) -> list[str]:
        """What each layer sees, by transformers' names."""
        full = [(layer + 1) % self.full_every == 0 for layer in range(self.layers)]
        return ["full_attention" if sees else "sliding_attention" for sees in full]

    @property
    def full_layers(self) -> int:
        """Layers that see everything."""
        return self.layer_types.count("full_attention")

    @property
    def linear_parameters(self) -> int:
        """Weights that a token meets in all layers, without embedding, head and biases."""
        attention = sum(rows * columns for rows, columns in self.linear_shapes.values())
        if not self.linear_heads:
            return self.layers * attention
        mlp = 3 * self.hidden * self.active * self.intermediate
        return self.full_layers * attention + (self.layers - self.full_layers) * (
            self._delta_parameters + mlp
        )

    @property
    def _delta_parameters(self) -> int:
        """Weights of one gated delta rule: Q, K, V, gate and output; two numbers a head; filters.

        Its heads are as wide as the model together, and its filters four positions long.
        """
        return self.hidden * (5 * self.hidden + 2 * self.linear_heads) + 4 * 3 * self.hidden

    @property
    def linear_head_dim(self) -> int:
        """Width of one head of a gated delta rule, of its keys and of its values."""
        return self.hidden // self.linear_heads

    @property
    def recurrence_flops(self) -> int:
        """Operations of one token in the states of all gated delta rules.

        The state is decayed, the key looked up in it, the change added and the query looked up: one
        multiplication, and three with an addition each, for every number of the state.
        """
        if not self.linear_heads:
            return 0
        numbers = self.linear_heads * self.linear_head_dim**2
        return 7 * numbers * (self.layers - self.full_layers)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of one token over all layers, in bfloat16."""
        layers = self.full_layers if self.linear_heads else self.layers
        return layers * 2 * self.kv_heads * self.head_dim * 2


MODELS = {
    "llama-100m": ModelShape("Llama", 768, 12, 12, 4, 2048, 32_000),
    "qwen-0.5b": ModelShape("Qwen2", 896, 24, 14, 2, 4864, 151_936),
    "gemma-shape": ModelShape("Gemma3Text", 768, 12, 6, 2, 2048, 32_000, window=1024, full_every=6),
    "gptoss-shape": ModelShape(
        "GptOss", 768, 12, 12, 4, 512, 32_000, window=128, full_every=2, experts=4, active=2
    ),
    "hybrid-shape": ModelShape(
        "Qwen3_5Text", 768, 12, 6, 2, 2048, 32_000, full_every=4, linear_heads=6
    ),
    "smoke": ModelShape("Llama", 64, 2, 4, 2, 128, 512),
}
"""`smoke` is for tests: its times say nothing."""

LLAMA_8B = ModelShape("Llama", 4096, 32, 32, 8, 14336, 128_256, tied=False)
"""That of Llama 3.1 8B; 16 GB in bfloat16, made in the memory of a GPU (`benchmarks/gpu.py`)."""

LLAMA_1B = ModelShape("Llama", 2048, 16, 32, 8, 8192, 128_256)
"""That of Llama 3.2 1B."""


def ensure_model(name: str, folder: Path) -> Path:
    """The model's folder below `folder`, made on first use."""
    path = folder / name
    if not (path / "complete").exists():
        shutil.rmtree(path, ignore_errors=True)
        _save(MODELS[name], path)
        (path / "complete").touch()
    return path


def make_config(shape: ModelShape) -> PreTrainedConfig:
    """What transformers calls a model of this shape."""
    import transformers

    fields: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": MAX_MODEL_LEN,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if shape.window is not None:
        fields |= {"sliding_window": shape.window, "layer_types": shape.layer_types}
        fields["head_dim"] = shape.head_dim
    if shape.linear_heads:
        kinds = [
            "full_attention" if full == "full_attention" else "linear_attention"
            for full in shape.layer_types
        ]
        fields |= {"layer_types": kinds, "head_dim": shape.head_dim}
        fields |= dict.fromkeys(
            ("linear_num_key_heads", "linear_num_value_heads"), shape.linear_heads
        )
        fields |= dict.fromkeys(
            ("linear_key_head_dim", "linear_value_head_dim"), shape.linear_head_dim
        )
    if shape.experts:
        fields |= {"num_local_experts": shape.experts, "num_experts_per_tok": shape.active}
    config: PreTrainedConfig = getattr(transformers, f"{shape.kind}Config")(**fields)
    return config


def _save(shape: ModelShape, path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_config(shape), dtype=torch.bfloat16)
    model.save_pretrained(path)
    make_tokenizer(shape.vocabulary).save_pretrained(path)


def make_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose every id below `vocabulary` decodes to some text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    words = special + sorted(pre_tokenizers.ByteLevel.alphabet())
    words += [f"\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}w{i}" for i in range(vocabulary)]
    ids = {word: i for i, word in enumerate(words[:vocabulary])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
