"""Models whose attention we do not honour are refused, naming the feature, never run wrongly."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.errors import ModelLoadError, OptionError, UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.model.features import refuse_unknown_keyword
from shoal.model.hook import ATTENTION_NAME
from shoal.model.load import prepare_model
from tests.helpers.models import ARCHITECTURES, byte_tokenizer, greedy, save_model

LLAMA = ARCHITECTURES["llama"][1]
SMALL = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 2, "eos_token_id": 1}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DeepseekV32Config", {**LLAMA}, "sparse attention by an indexer"),
    ("GlmMoeDsaConfig", {**LLAMA}, "sparse attention by an indexer"),
    ("BloomConfig", {**SMALL, "n_head": 4, "n_layer": 2}, "ALiBi"),
    ("FalconConfig", {**SMALL, "num_attention_heads": 4, "alibi": True}, "ALiBi"),
    ("FalconConfig", {**SMALL, "num_attention_heads": 4, "alibi": False}, "own attention"),
    ("T5Config", {"vocab_size": 256, "d_model": 32, "num_layers": 2}, "encoder-decoder"),
    ("MambaConfig", {**SMALL, "state_size": 4}, "recurrent"),
    ("JambaConfig", {**LLAMA, "attn_layer_period": 2, "attn_layer_offset": 1}, "Mamba-1"),
    ("MiniMaxConfig", {**LLAMA}, "recurrent"),
]  # fmt: skip


def save(folder: Path, config_class: str, fields: dict[str, Any]) -> Path:
    config = getattr(transformers, config_class)(**fields)
    config.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("config_class", "fields", "feature"), REFUSED)
def test_unsupported_features_are_refused_by_name(
    tmp_path: Path, config_class: str, fields: dict[str, Any], feature: str
) -> None:
    folder = save(tmp_path, config_class, fields)
    if config_class == "FalconConfig" and not fields["alibi"]:
        # Only its code shows that it keeps an attention of its own: weights are needed.
        config = transformers.AutoConfig.from_pretrained(folder)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(UnsupportedModelError) as caught:
        LLM(str(folder), device="cpu")
    assert feature in f"{caught.value.feature} {caught.value}"
    assert config_class.removesuffix("Config")[:5].lower() in str(caught.value).replace("_", "")


MIXED = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
         "full_attention": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0,
                            "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                            "original_max_position_embeddings": 64}}  # fmt: skip


def test_scaling_by_length_in_some_layers_is_refused_beyond_it(tmp_path: Path) -> None:
    """The advice works."""
    layers = {"layer_types": ["sliding_attention", "full_attention"], "head_dim": 8}
    folder = save_model(tmp_path, "gemma3", num_hidden_layers=2, rope_parameters=MIXED, **layers)
    with pytest.raises(UnsupportedModelError, match=r"--max-model-len 64 or less"):
        LLM(str(folder), device="cpu")
    llm = LLM(str(folder), dtype="float32", device="cpu", max_model_len=64)
    prompt = list(range(2, 42))
    out = llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=20), use_tqdm=False)
    assert list(out[0].outputs[0].token_ids) == greedy(folder, prompt, 20)


def test_a_layer_that_ignores_our_attention_is_found(tmp_path: Path) -> None:
    """Such a model would run, and be silently wrong."""
    description = ModelDescription.load(
        str(save_model(tmp_path, "llama")), EngineOptions(dtype="float32", device="cpu")
    )
    module = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=ATTENTION_NAME)
    prepare_model(module, description)
    own = copy.deepcopy(module.config)
    own._attn_implementation = "eager"
    module.model.layers[1].self_attn.config = own
    with pytest.raises(UnsupportedModelError, match="1 of 2 layers") as caught:
        prepare_model(module, description)
    assert caught.value.feature == "its own attention code"


def test_a_window_that_cannot_bite_is_no_obstacle(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "mistral", sliding_window=64)
    llm = LLM(str(folder), dtype="float32", max_model_len=64)
    prompt = list(range(2, 42))
    out = llm.generate([prompt], SamplingParams(temperature=0.0, max_tokens=20), use_tqdm=False)
    assert list(out[0].outputs[0].token_ids) == greedy(folder, prompt, 20)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("softcap", -1.0), ("s_aux", torch.zeros(2, 2)), ("sliding_window", (8, 8)), ("new_thing", 3)],
)
def test_attention_keywords_we_do_not_know_are_refused(keyword: str, value: Any) -> None:
    with pytest.raises(UnsupportedModelError):
        refuse_unknown_keyword("some_model", {keyword: value})


def test_harmless_attention_keywords_pass() -> None:
    keywords = {"dropout": 0.0, "sliding_window": 9, "softcap": 30.0, "s_aux": torch.zeros(2)}
    keywords |= {"output_attentions": False, "new_thing": None}
    refuse_unknown_keyword("some_model", keywords)


def test_a_missing_model_is_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadError, match="config"):
        LLM(str(tmp_path / "empty"))


def test_weights_that_are_absent_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="weights"):
        LLM(str(save(tmp_path, "LlamaConfig", LLAMA)))


def test_wrong_options_are_reported(tmp_path: Path) -> None:
    folder = str(save(tmp_path, "LlamaConfig", LLAMA))
    for options, message in [
        ({"kv_memory": "lots"}, "not a size"),
        ({"kv_memory": "1B"}, "no KV block"),
        ({"gpu_memory_utilization": 0.0}, "above 0 and at most 1"),
        ({"gpu_memory_utilization": 1.5}, "above 0 and at most 1"),
        ({"gpu_memory_utilization": True}, "above 0 and at most 1"),
        ({"max_num_batched_tokens": 0}, "at least 1"),
        ({"sharing": "some"}, "forest, single, paper, none"),
        ({"max_model_len": 100_000}, "exceeds the model's own limit of 256"),
        ({"kv_mem": "1GiB"}, "no option 'kv_mem'"),
    ]:
        with pytest.raises(OptionError, match=message):
            LLM(folder, **options)
