"""Adapters that are not applied, or do not fit, are refused in words before a weight is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from shoal import LLM, LoRARequest
from shoal.config import EngineOptions
from shoal.errors import ModelLoadError, OptionError, ShoalError, UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.model.lora.adapter_reader import AdapterReader
from shoal.model.lora.held_format import HeldFormat
from tests.helpers.lora import save_adapter
from tests.helpers.models import save_model

Tensors = dict[str, torch.Tensor]
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refused")
    model = save_model(folder / "base", "llama")
    save_adapter(folder / "good", model, 1, r=8)
    return folder


@pytest.fixture(scope="module")
def reader(folder: Path) -> AdapterReader:
    config = AutoConfig.from_pretrained(folder / "base")
    return AdapterReader(config, "base", HeldFormat(torch.float32, grouped=True))


def changed(
    folder: Path,
    target: Path,
    fields: dict[str, Any],
    change: Callable[[Tensors], object] = lambda tensors: None,
) -> Path:
    """A copy of the good adapter with other fields and tensors."""
    target.mkdir()
    config = json.loads((folder / "good" / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | fields))
    tensors = load_file(folder / "good" / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, target / "adapter_model.safetensors")
    return target


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, r"has DoRA \(use_dora\).*Merge it into its model"),
        ({"bias": "all"}, "has biases of its own"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "whole modules of its own"),
        ({"trainable_token_indices": [3]}, "embeddings of its own"),
        ({"target_parameters": ["mlp.experts"]}, "target_parameters"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"fan_in_fan_out": True}, "transposed weights"),
        ({"layer_replication": [[0, 1]]}, "layers that occur several times"),
        ({"init_lora_weights": "pissa"}, "'pissa', which changes the model's own weights"),
        ({"use_qalora": True}, "sets use_qalora"),
        ({"a_field_to_come": 1}, "sets a_field_to_come"),
        ({"peft_type": "IA3"}, "is of type 'IA3', and Shoal applies LORA"),
        ({"r": "8"}, "r must be a whole number"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"r": 16}, r"\[8, 48\], which is not of rank 16"),
        ({"target_modules": ["q_proj"]}, "which its target_modules do not name"),
    ],
)
def test_by_name(
    folder: Path, reader: AdapterReader, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        reader.read("bad", str(changed(folder, tmp_path / "bad", fields)))


def _rename(tensors: Tensors, old: str, new: str) -> None:
    for name in list(tensors):
        if old in name:
            tensors[name.replace(old, new)] = tensors.pop(name)


def _wider(tensors: Tensors) -> None:
    for name in list(tensors):
        if "lora_A" in name:
            tensors[name] = torch.zeros(8, 2 * tensors[name].shape[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(FIRST), "lacks the tensor .*layers.0.self_attn.q_proj.lora_A"),
        (lambda t: _rename(t, "layers.1.", "layers.7."), "trained on .* does not fit 'base'"),
        (_wider, r"does not fit 'base' \(llama\): .* is \[8, \d+\], and \[8, \d+\] would fit"),
        (lambda t: t.update(extra=torch.zeros(1)), "holds 'extra', which is no matrix"),
        (
            lambda t: [t.pop(name) for name in list(t) if "layers.1." in name],
            "lacks the matrices of 7 of the 14 modules",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    folder: Path,
    reader: AdapterReader,
    tmp_path: Path,
    change: Callable[[Tensors], object],
    message: str,
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        reader.read("bad", str(changed(folder, tmp_path / "bad", {}, change)))


def test_files_that_are_missing_or_torn(
    reader: AdapterReader, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no adapter_config\.json"):
        reader.read("bad", str(tmp_path))
    torn = changed(folder, tmp_path / "torn", {})
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(ModelLoadError, match="torn or no safetensors file"):
        reader.read("bad", str(torn))
    weights.rename(torn / "adapter_model.bin")
    with pytest.raises(ModelLoadError, match=r"adapter_model\.bin, which is not read"):
        reader.read("bad", str(torn))
    (torn / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelLoadError, match="no JSON object"):
        reader.read("bad", str(torn))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (("sql=missing",), "there is no folder 'missing'"),
        (("=good",), "give NAME=PATH"),
        (("base=good",), "'base' is the name of the model"),
        (("a=good", "a=base"), "are both called 'a'"),
        (("empty",), "neither the folder nor one in it holds adapter_config"),
    ],
)
def test_options(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lora: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(OptionError, match=message):
        ModelDescription.load("base", EngineOptions(lora=lora, device="cpu"))


def test_more_than_the_memory(folder: Path) -> None:
    options = EngineOptions(lora=(f"a={folder / 'good'}",), lora_memory="1KiB", device="cpu")
    with pytest.raises(OptionError, match="lora_memory 1024 B holds no adapter of"):
        ModelDescription.load(str(folder / "base"), options)


@pytest.mark.parametrize(
    ("architecture", "options", "error", "message"),
    [
        ("llama", {"tensor_parallel": 2}, ShoalError, "split over 2 devices|tensor_parallel"),
        ("deepseek_v2", {}, UnsupportedModelError, "latents"),
        ("qwen3_next", {}, UnsupportedModelError, "recurrent layers"),
    ],
)
def test_models(
    tmp_path: Path,
    folder: Path,
    architecture: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    model = save_model(tmp_path / "model", architecture)
    given = EngineOptions(lora=(f"a={folder / 'good'}",), device="cpu", **options)
    with pytest.raises(error, match=message):
        ModelDescription.load(str(model), given)


def test_calls(folder: Path) -> None:
    good = LoRARequest("good", 1, str(folder / "good"))
    llm = LLM(str(folder / "base"), dtype="float32", device="cpu", kv_memory="1MiB")
    with pytest.raises(OptionError, match="enable_lora=True"):
        llm.generate([[5]], lora_request=good, use_tqdm=False)
    with pytest.raises(OptionError, match="2 lora_requests for 1 prompts"):
        llm.generate([[5]], lora_request=[good, None], use_tqdm=False)
    with pytest.raises(OptionError, match="must be a LoRARequest"):
        llm.generate([[5]], lora_request=["good"], use_tqdm=False)
    with pytest.raises(OptionError, match="lora_int_id"):
        LoRARequest("good", 0, "path")
