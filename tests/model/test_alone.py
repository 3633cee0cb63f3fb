"""What a model does in a packed batch is what it does alone, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer, LlamaModel
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashMLA

from shoal import LLM, SamplingParams
from shoal.attention import PLAIN
from shoal.config import EngineOptions
from shoal.errors import UnsupportedModelError
from shoal.model import alone, hook, load
from shoal.model.alone import prove_positions
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME
from shoal.model.load import load_model, prepare_model
from shoal.model.pieces import FIRST_TOKENS, PIECE_TOKENS, Pieces, spread_positions
from tests.helpers.models import ARCHITECTURES, FAMILIES, byte_tokenizer, greedy, save_model

LLAMA = ARCHITECTURES["llama"][1]
ENCODER = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
LLAMA4 = {**LLAMA, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4,
          "num_hidden_layers": 4, "floor_scale": 64, "attn_scale": 0.5}  # fmt: skip
ROPE = {"rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
LONG = {**ROPE, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def description_of(folder: Path, **options: Any) -> ModelDescription:
    options = {"dtype": "float32", "device": "cpu", **options}
    return ModelDescription.load(str(folder), EngineOptions(**options))


def tiny(module_class: Any, **fields: Any) -> torch.nn.Module:
    config = transformers.LlamaConfig(**{**LLAMA, **fields})
    config._attn_implementation = ATTENTION_NAME
    torch.manual_seed(1)
    module: torch.nn.Module = module_class(config).eval()
    return module


def prove(module: Any, folder: Path, **options: Any) -> None:
    """As `load_model` would, if nothing were known of the model but how it was made."""
    config = module.config
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pieces = Pieces.spread(config, 256, options.get("max_model_len", 256))
    prove_positions(module, [(heads, dim, dim)] * config.num_hidden_layers, pieces, "some")


@pytest.mark.parametrize(
    ("config_class", "fields", "feature", "position"),
    [
        ("BertConfig", ENCODER, "later tokens", 0),
        ("RobertaConfig", {**ENCODER, "is_decoder": True, "max_position_embeddings": 300},
         "embeddings", 0),
        ("Phi3Config", {**LLAMA, "rope_parameters": LONG, "original_max_position_embeddings": 64},
         "positions", 0),
    ],
)  # fmt: skip
def test_models_are_found_out(
    tmp_path: Path, config_class: str, fields: dict[str, Any], feature: str, position: int
) -> None:
    """Not by what their configs say, but by what they do."""
    torch.manual_seed(1)
    config = getattr(transformers, config_class)(**fields)
    module = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME).eval()
    with pytest.raises(UnsupportedModelError) as caught:
        prove(module, tmp_path)
    assert feature in caught.value.feature
    advice = f"use --max-model-len {position} or less" if position else "Use another model."
    assert advice in str(caught.value)


class ByRow(LlamaAttention):
    """Takes a token's place in the batch for its position, from a threshold on."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        past = keywords.get("past_key_values")
        rows = torch.arange(hidden_states.shape[1]) + (past.get_seq_length() if past else 0)
        late = 1 + (rows >= 200).float()
        return super().forward(hidden_states * late[:, None], *args, **keywords)


def mixed(hidden: torch.Tensor) -> torch.Tensor:
    """Each row with the one before it."""
    before = hidden.roll(1, dims=1)
    before[:, 0] = 0
    return hidden + before


class Neighbours(LlamaAttention):
    def forward(self, hidden_states: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        return super().forward(mixed(hidden_states), *args, **keywords)


@pytest.mark.parametrize(
    ("attention", "what"),
    [(ByRow, "place in its batch"), (Neighbours, "positions other than those it is given")],
)
def test_rows_that_are_not_what_they_would_be_alone(
    tmp_path: Path, attention: Any, what: str
) -> None:
    module = tiny(LlamaForCausalLM)
    prove(module, tmp_path)
    last = module.model.layers[1].self_attn  # type: ignore[union-attr, index]
    last.__class__ = attention
    with pytest.raises(UnsupportedModelError, match=what):
        prove(module, tmp_path)


class LatentNeighbours(LongcatFlashMLA):
    def forward(self, hidden_states: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        return super().forward(mixed(hidden_states), *args, **keywords)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("second", [0, 1])
def test_each_attention_of_a_layer_is_tried(tmp_path: Path, layer: int, second: int) -> None:
    """LongCat-Flash attends twice in a layer."""
    folder = save_model(tmp_path, "longcat_flash")
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    shapes = [(4, 24, 12)] * 4
    pieces = Pieces.of(description_of(folder))
    prove_positions(module.eval(), shapes, pieces, "some")
    module.model.layers[layer].self_attn[second].__class__ = LatentNeighbours
    with pytest.raises(UnsupportedModelError, match=r"positions other than those it is given"):
        prove_positions(module, shapes, pieces, "some")


class BySecond(ByRow):
    """Only its number tells the layer that does so from the others."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **keywords: Any) -> Any:
        attend = super().forward if self.layer_idx == 1 else super(ByRow, self).forward
        return attend(hidden_states, *args, **keywords)


def test_layers_that_look_alike_are_tried_at_the_longest_sequence(tmp_path: Path) -> None:
    """No length is told below which they would be right: the others were not tried."""
    module = tiny(LlamaForCausalLM, num_hidden_layers=3)
    for layer in module.model.layers:  # type: ignore[union-attr]
        layer.self_attn.__class__ = BySecond
    with pytest.raises(UnsupportedModelError, match=r"positions other .* Use another model"):
        prove(module, tmp_path)


def test_layers_that_are_in_no_list_cannot_be_tried(tmp_path: Path) -> None:
    class Loose(LlamaModel):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.first, self.second = self.layers
            del self.layers
            self.layers = (self.first, self.second)

    module = tiny(LlamaForCausalLM)
    module.model = Loose(module.config)
    with pytest.raises(UnsupportedModelError, match="its layers are not in one list"):
        prove(module, tmp_path)


def test_a_model_that_fails_late_cannot_be_tried(tmp_path: Path) -> None:
    """For instance one whose position embeddings end before the lengths it claims."""
    folder = save_model(tmp_path, "gpt2")
    description = description_of(folder)
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    module.transformer.wpe = torch.nn.Embedding(128, 32)
    with pytest.raises(UnsupportedModelError, match=r"cannot be tried .* IndexError"):
        prepare_model(module, description)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_model_is_left_as_it_was(tmp_path: Path, dtype: str) -> None:
    """And the format of its numbers is no obstacle."""
    folder = save_model(tmp_path, "llama")
    module = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation=ATTENTION_NAME, dtype=getattr(torch, dtype)
    )
    prepare_model(module, description_of(folder, dtype=dtype))
    for layer in module.model.layers:
        assert type(layer) is LlamaDecoderLayer
        assert "forward" not in vars(layer)
        assert not layer._forward_pre_hooks
    assert ATTENTION_NAME not in ALL_MASK_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("max_model_len", [256, 63])
def test_a_scale_by_row_is_refused_however_short_requests_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_model_len: int
) -> None:
    """Llama 4 counts positions by the rows of a forward, if it is not told them otherwise.

    Of these there may be more than a request has: the scale sets in at row 63.
    """
    for place in (alone, load):
        monkeypatch.setattr(place, "packed_keywords", lambda module, positions: {})
    config = transformers.Llama4TextConfig(**LLAMA4)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"place in its batch.* Use another model"):
        load_model(description_of(tmp_path, max_model_len=max_model_len))


def test_what_sets_in_late_is_right_up_to_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window that we would not know of; the advice works."""
    monkeypatch.setattr(hook, "_kind", lambda **keywords: PLAIN)
    folder = save_model(tmp_path, "mistral", sliding_window=64)
    with pytest.raises(UnsupportedModelError, match="use --max-model-len 64 or less"):
        load_model(description_of(folder))
    llm = LLM(str(folder), dtype="float32", max_model_len=64)
    prompts = [list(range(2, 2 + length)) for length in (3, 40, 52)]
    out = llm.generate(prompts, SamplingParams(temperature=0.0, max_tokens=11), use_tqdm=False)
    for prompt, found in zip(prompts, out, strict=True):
        assert list(found.outputs[0].token_ids) == greedy(folder, prompt, 11)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    config = transformers.BertConfig(**ENCODER)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="later tokens"):
        LLM(str(tmp_path), dtype="float32")


def test_pieces_stand_at_both_ends_and_astride_what_the_config_names() -> None:
    config = transformers.LlamaConfig(
        **{**LLAMA, "max_position_embeddings": 131072, "vocab_size": 20000},
        rope_parameters={"rope_type": "yarn", **ROPE, "original_max_position_embeddings": 4096},
        sliding_window=1000,
        attention_chunk_size=8192.0,
        something={"inner": [300, True, 0.5]},
    )
    starts = spread_positions(config, 131072).tolist()
    assert starts[0] == 0
    assert starts[-1] == 131072 - PIECE_TOKENS
    assert {298, 998, 4094, 8190, 9998} <= set(starts)
    # A dimension is no threshold.
    assert 19998 not in starts
    assert spread_positions(config, 4096).tolist()[-1] == 4092
    many = transformers.LlamaConfig(**LLAMA, thresholds=list(range(100, 4000, 50)))
    assert len(spread_positions(many, 131072)) < 20


@pytest.mark.parametrize("max_model_len", [1, 3, 4, FIRST_TOKENS, FIRST_TOKENS + 2, 256])
def test_pieces_fit_any_length(max_model_len: int) -> None:
    pieces = Pieces.spread(transformers.LlamaConfig(**LLAMA), 256, max_model_len)
    assert pieces.positions.max() == max_model_len - 1
    assert len(pieces.positions) == pieces.work.num_rows == pieces.bounds[-1]
    assert len(pieces.slots.unique()) == pieces.work.num_rows
    for rows in pieces.rows():
        steps = pieces.positions[rows].diff()
        assert bool((steps == 1).all())


def test_no_piece_but_one_stands_where_it_would_alone() -> None:
    config = getattr(transformers, FAMILIES["ministral3"][0])(**FAMILIES["ministral3"][1])
    pieces = Pieces.spread(config, 256, 256)
    starts = [int(pieces.positions[rows.start]) for rows in pieces.rows()]
    assert starts != sorted(starts)
    assert all(rows.start != start for rows, start in zip(pieces.rows(), starts, strict=True))
