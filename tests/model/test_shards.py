"""What is refused before any weight is loaded, and what one device stores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from shoal.config import EngineOptions
from shoal.errors import OptionError, UnsupportedModelError
from shoal.machine.calibration_cache import cache_path
from shoal.model.description import ModelDescription
from shoal.model.shards import kv_shards, refuse_unsplittable
from tests.helpers.models import save_model


def llama(heads: int, kv_heads: int) -> transformers.PreTrainedConfig:
    return transformers.LlamaConfig(
        hidden_size=8 * heads, num_attention_heads=heads, num_key_value_heads=kv_heads
    )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "parts"), [(32, 8, 2), (32, 8, 8), (6, 3, 3), (4, 4, 4), (5, 1, 1)]
)
def test_divisors_of_the_heads_are_taken(heads: int, kv_heads: int, parts: int) -> None:
    refuse_unsplittable(llama(heads, kv_heads), parts)
    assert kv_shards(llama(heads, kv_heads), parts) == parts


@pytest.mark.parametrize(
    ("heads", "kv_heads", "parts", "remedy"),
    [
        (32, 8, 3, "give 2, 4 or 8"),
        (32, 8, 16, "give 2, 4 or 8"),
        (28, 4, 8, "give 2 or 4"),
        (6, 3, 2, "give 3"),
        (8, 1, 2, "cannot be split"),
    ],
)
def test_what_divides_no_heads_is_refused(
    heads: int, kv_heads: int, parts: int, remedy: str
) -> None:
    with pytest.raises(OptionError, match=f"{heads} query heads and {kv_heads} KV .*{remedy}"):
        refuse_unsplittable(llama(heads, kv_heads), parts)


def test_a_model_without_a_plan_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"no tensor parallel plan .*'gpt2'"):
        refuse_unsplittable(transformers.GPT2Config(), 2)
    refuse_unsplittable(transformers.GPT2Config(), 1)


def test_a_plan_that_gathers_the_heads_leaves_the_kv_whole() -> None:
    config = transformers.Phi3Config(num_attention_heads=4, num_key_value_heads=2)
    assert kv_shards(config, 4) == 1
    refuse_unsplittable(config, 4)


def test_kv_memory_is_per_device(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path, "llama"))
    whole, half = (
        ModelDescription.load(folder, EngineOptions(tensor_parallel=parts)) for parts in (1, 2)
    )
    assert half.kv_bytes_per_token * 2 == whole.kv_bytes_per_token
    assert half.kv_blocks(2**20) == 2 * whole.kv_blocks(2**20)
    assert cache_path(whole) != cache_path(half)


def test_more_parts_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OptionError, match="3: torch sees only 2 CUDA devices"):
        ModelDescription.load(None, EngineOptions(tensor_parallel=3))


def test_the_cpu_beside_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with pytest.raises(OptionError, match="CUDA_VISIBLE_DEVICES= shoal"):
        ModelDescription.load(None, EngineOptions(tensor_parallel=3, device="cpu"))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_what_is_no_number_of_parts_is_refused(wrong: object) -> None:
    with pytest.raises(OptionError, match="tensor_parallel must be a whole number"):
        EngineOptions.create(tensor_parallel=wrong)
