"""Windows, chunks, soft-capping and sinks in whole models: greedy tokens equal `generate`'s.

Windows are of 16 tokens, prompts of up to 90, answers of 24: both go past the window.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from shoal import LLM, SamplingParams
from shoal.attention import AttentionKind
from shoal.config import EngineOptions, Sharing
from shoal.errors import UnsupportedModelError
from shoal.model import alone, hook, load
from shoal.model.description import ModelDescription
from shoal.model.hook import ATTENTION_NAME
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.combinations import WHOLE, in_turn
from tests.helpers.models import KINDS, forest_of_prompts, greedy, save_model

WINDOW, NEW_TOKENS = 16, 24
FEW = ["mistral window", "gemma2", "gpt_oss", "llama4"]
"""A window alone; windows, full layers and a soft cap; windows, full layers and sinks; chunks and
full layers whose queries are scaled by their position."""
SETTINGS: list[dict[str, Any]] = [
    {"sharing": "forest", "max_num_batched_tokens": 2048},
    {"sharing": "forest", "max_num_batched_tokens": 7},
    {"sharing": "single", "max_num_batched_tokens": 33, "order": "input"},
    {"sharing": "paper", "max_num_batched_tokens": 65},
    {"sharing": "none", "max_num_batched_tokens": 48},
]


def expected_of(model: Path, prompts: list[list[int]]) -> list[list[int]]:
    return [greedy(model, prompt, NEW_TOKENS) for prompt in prompts]


def answers(model: Path, prompts: list[list[int]], **settings: Any) -> list[list[int]]:
    llm = LLM(str(model), **{"dtype": "float32", "device": "cpu", "kv_memory": "4MiB", **settings})
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    llm.close()
    return [list(out.outputs[0].token_ids) for out in outputs]


@pytest.mark.parametrize("family", KINDS)
def test_equals_generate(tmp_path: Path, family: str) -> None:
    model = save_model(tmp_path, family)
    prompts = forest_of_prompts(4, trees=1)
    assert max(map(len, prompts)) > 4 * WINDOW
    found = answers(model, prompts, max_num_batched_tokens=65)
    assert found == expected_of(model, prompts)


@pytest.mark.parametrize("family", FEW)
def test_equals_generate_however_it_is_shared(tmp_path: Path, family: str) -> None:
    """Two settings each; `test_every_way.py` has them all."""
    model, prompts = save_model(tmp_path, family), forest_of_prompts(1, trees=1)
    expected = expected_of(model, prompts)
    for settings in in_turn(SETTINGS, FEW.index(family)):
        assert answers(model, prompts, **settings) == expected, settings


@WHOLE
@pytest.mark.parametrize("family", FEW)
def test_equals_generate_in_any_kv_budget(tmp_path: Path, family: str, whole: bool) -> None:
    model, prompts = save_model(tmp_path, family), forest_of_prompts(2, trees=1)
    expected = expected_of(model, prompts)
    description = ModelDescription.load(str(model), EngineOptions(dtype="float32", device="cpu"))
    block = description.kv_bytes_per_token * BLOCK_SIZE
    largest = -(-(max(map(len, prompts)) + NEW_TOKENS - 1) // BLOCK_SIZE)
    sharings = Sharing.forest, Sharing.none
    every = [(n, way) for n in (largest, largest + 1, 2 * largest) for way in sharings]
    for blocks, sharing in every if whole else in_turn(every, FEW.index(family)):
        found = answers(model, prompts, kv_memory=f"{blocks * block}B", sharing=sharing)
        assert found == expected, (blocks, sharing)


@pytest.mark.parametrize("family", [*FEW, "gemma3"])
def test_equals_generate_unfused(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = save_model(tmp_path, family), forest_of_prompts(3, trees=1)
    monkeypatch.setattr(load, "_can_fuse", lambda description: False)
    assert answers(model, prompts) == expected_of(model, prompts)


@pytest.mark.parametrize("family", FEW)
def test_equals_generate_without_the_cpp_kernels(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = save_model(tmp_path, family), forest_of_prompts(4, trees=1)
    for place in ("shoal.attention.backends", "shoal.model.load", "shoal.model.fusion.fuse"):
        monkeypatch.setattr(f"{place}.load_kernels", lambda: None)
    assert answers(model, prompts) == expected_of(model, prompts)


def test_equals_generate_on_two_devices(tmp_path: Path) -> None:
    model, prompts = save_model(tmp_path, "gpt_oss"), forest_of_prompts(5, trees=1)
    assert answers(model, prompts, data_parallel_size=2) == expected_of(model, prompts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "layers"),
    [("mistral window", 2), ("gemma2", 3), ("gpt_oss", 3), ("llama4", 4), ("ministral3", 2),
     ("gemma4", 4), ("gemma4 keys as values", 4), ("gemma4 shared", 4), ("gemma3n", 4), ("glm", 2)],
)  # fmt: skip
def test_attention_is_fused(tmp_path: Path, family: str, layers: int, dtype: str) -> None:
    """All but that of layers which reuse the keys and values of others."""
    options = EngineOptions(dtype=dtype, device="cpu")
    description = ModelDescription.load(str(save_model(tmp_path, family)), options)
    assert load.load_model(description).fused["attention"] == layers


@pytest.mark.parametrize("chunk", [15, 17])
def test_chunks_other_than_the_masks_are_refused(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path, "llama4")
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    prepared(folder, module)
    own = hook._chunked
    monkeypatch.setattr(
        hook,
        "_chunked",
        lambda module, kind: (
            found if (found := own(module, kind)).chunk is None else replace(found, chunk=chunk)
        ),
    )
    with pytest.raises(UnsupportedModelError, match=r"beyond the window or chunk|not see all"):
        prepared(folder, module)


def test_queries_scaled_by_their_place_in_the_batch_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Llama 4 does with positions it is only told, past the threshold its config names."""
    folder = save_model(tmp_path, "llama4")
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    monkeypatch.setattr(alone, "packed_keywords", lambda module, positions: {})
    with pytest.raises(UnsupportedModelError, match="place in its batch"):
        prepared(folder, module)


def prepared(folder: Path, module: torch.nn.Module) -> None:
    description = ModelDescription.load(str(folder), EngineOptions(dtype="float32", device="cpu"))
    load.prepare_model(module, description)


@pytest.mark.parametrize(
    ("named", "feature"),
    [(15, "beyond the window"), (17, "does not see all earlier"), (None, "does not see all")],
)
def test_a_window_other_than_the_masks_is_refused(
    tmp_path: Path, named: int | None, feature: str
) -> None:
    """What a model tells its attention must be what its own masks hide, by a single token."""
    folder = save_model(tmp_path, "gemma3")
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    prepared(folder, module)
    module.model.layers[2].self_attn.sliding_window = named
    with pytest.raises(UnsupportedModelError, match=feature):
        prepared(folder, module)


@pytest.mark.parametrize(("family", "kept"), [("gemma2", (1, 0, 1)), ("gpt_oss", (1, 1, 0))])
def test_a_soft_cap_or_sinks_that_are_forgotten_are_found(
    tmp_path: Path, family: str, kept: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = save_model(tmp_path, family), hook._kind

    def forgetful(**keywords: Any) -> AttentionKind:
        kind = asked(**keywords)
        parts = kind.window, kind.softcap, kind.sinks
        return AttentionKind(
            *(part if keep else None for part, keep in zip(parts, kept, strict=True))
        )

    monkeypatch.setattr(hook, "_kind", forgetful)
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=ATTENTION_NAME)
    with pytest.raises(UnsupportedModelError, match="differs from the softmax it asks for"):
        prepared(folder, module)


@pytest.mark.parametrize(("family", "owners"), [("gemma4 shared", 4), ("gemma3n", 4)])
def test_layers_that_reuse_the_kv_of_others_have_no_memory(
    tmp_path: Path, family: str, owners: int
) -> None:
    """The pool holds a layer's keys and values once, and its capacity is counted so."""
    llm = LLM(str(save_model(tmp_path, family)), dtype="float32", device="cpu", kv_memory="4MiB")
    kv, layers = llm._engine._kv, llm._engine._model.layers
    description = llm._description
    llm.close()
    memory = {kv[layer].keys.data_ptr() for layer in range(len(layers))}
    assert len(memory) == owners < len(layers)
    assert [kv.stores(layer) for layer in range(len(layers))] == [True] * 4 + [False] * 2
    assert description.kv_bytes_per_token == sum(
        4 * heads * (key + value) for heads, key, value in layers[:owners]
    )


@pytest.mark.parametrize("family", ["gpt_oss", "gemma3", "llama4"])
def test_windows_bound_the_kv_of_their_layers(tmp_path: Path, family: str) -> None:
    """Behind 200 shared tokens, prefilled in chunks of 33: the same answers from less memory."""
    model = save_model(tmp_path, family)
    shared = [5 + index % 40 for index in range(200)]
    prompts = [shared + [7 + index] * 9 for index in range(4)]
    expected, params = expected_of(model, prompts), SamplingParams(temperature=0.0, max_tokens=24)
    block = ModelDescription.load(str(model), EngineOptions(dtype="float32")).kv_bytes_per_token
    peaks = []
    for tokens, whole in ((4096, False), (4096, True), (9 * BLOCK_SIZE, False)):
        llm = LLM(
            str(model), dtype="float32", device="cpu", kv_memory=f"{tokens * block}B",
            max_num_batched_tokens=33, disable_hybrid_kv_cache_manager=whole,
        )  # fmt: skip
        outputs = llm.generate(prompts, params, use_tqdm=False)
        assert [list(out.outputs[0].token_ids) for out in outputs] == expected, (tokens, whole)
        peaks.append(llm.last_run.peak_kv_bytes)
        llm.close()
    bounded, whole_peak, tight = peaks
    assert bounded < 0.8 * whole_peak
    assert tight <= 9 * BLOCK_SIZE * block
