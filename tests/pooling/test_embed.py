"""Embeddings are transformers' hidden states, pooled; what prompts share is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shoal import LLM, PoolerConfig, PoolingParams
from shoal.errors import InvalidRequestError, OptionError, UnsupportedModelError
from tests.helpers.models import save_model
from tests.helpers.pooled import hidden_states, save_embedder

RAW = PoolingParams(use_activation=False)
_RNG = np.random.default_rng(0)


def _tokens(count: int) -> list[int]:
    return _RNG.integers(2, 256, count).tolist()


PREFIX = _tokens(70)
PROMPTS = [
    *(PREFIX + _tokens(count) for count in (1, 5, 9, 70, 100)),
    *(PREFIX[:40] + _tokens(count) for count in (3, 50)),
    PREFIX,
    PREFIX,
    PREFIX[:40],
    _tokens(1),
    _tokens(90),
]
"""Several levels of prefixes, prompts that are all shared, and prompts that share nothing."""


def _embed(folder: Path, prompts: Any, params: Any = RAW, **options: Any) -> tuple[LLM, np.ndarray]:
    options = {"max_num_batched_tokens": 32, "kv_memory": "1MiB", "dtype": "float32"} | options
    llm = LLM(str(folder), runner="pooling", **options)
    outputs = llm.embed(prompts, pooling_params=params, use_tqdm=False)
    assert [output.error for output in outputs] == [None] * len(outputs)
    return llm, np.array([output.outputs.embedding for output in outputs])


def _expected(folder: Path, prompts: list[list[int]], pooling: str) -> np.ndarray:
    rows = [hidden_states(folder, prompt) for prompt in prompts]
    return torch.stack([r[-1] if pooling == "LAST" else r.mean(0) for r in rows]).numpy()


@pytest.mark.parametrize("pooling", ["LAST", "MEAN"])
@pytest.mark.parametrize("architecture", ["qwen3", "llama", "gpt2"])
def test_vectors_are_those_of_transformers(tmp_path: Path, architecture: str, pooling: str) -> None:
    folder = save_model(tmp_path, architecture)
    _, found = _embed(folder, PROMPTS, pooler_config=PoolerConfig(pooling_type=pooling))
    assert np.abs(found - _expected(folder, PROMPTS, pooling)).max() < 1e-5


@pytest.mark.parametrize("pooling", ["LAST", "MEAN"])
def test_what_is_shared_is_computed_once_and_nothing_is_generated(
    tmp_path: Path, pooling: str
) -> None:
    folder = save_model(tmp_path, "qwen3")
    llm, _ = _embed(folder, PROMPTS, pooler_config={"pooling_type": pooling})
    assert llm.last_run is not None
    tokens = llm.last_run.tokens
    distinct = {tuple(prompt[: i + 1]) for prompt in PROMPTS for i in range(len(prompt))}
    assert tokens.prompt_computed == len(distinct)
    assert (tokens.generated, tokens.recomputed) == (0, 0)


def test_no_kv_is_kept_behind_a_prompt(tmp_path: Path) -> None:
    """60 prompts of two blocks each: those that are computed take memory, and no others."""
    folder = save_model(tmp_path, "qwen3")
    prompts = [_tokens(64) for _ in range(60)]
    llm, _ = _embed(folder, prompts)
    block = 32 * 2 * 2 * 2 * 16 * 4
    assert llm.last_run is not None
    assert llm.last_run.peak_kv_bytes <= 3 * 2 * block


@pytest.mark.parametrize("pooling", ["LAST", "MEAN"])
def test_little_memory_gives_the_same(tmp_path: Path, pooling: str) -> None:
    """Six blocks: one prompt at a time, segments evicted and computed again."""
    folder = save_model(tmp_path, "qwen3")
    block = 32 * 2 * 2 * 2 * 16 * 4
    llm, found = _embed(
        folder, PROMPTS, pooler_config={"pooling_type": pooling}, kv_memory=f"{6 * block}B"
    )
    assert np.abs(found - _expected(folder, PROMPTS, pooling)).max() < 1e-5
    assert llm.last_run is not None
    assert llm.last_run.peak_kv_bytes <= 6 * block


@pytest.mark.parametrize(
    ("mode", "normalize"), [("lasttoken", True), ("mean_tokens", True), ("lasttoken", False)]
)
def test_the_folder_says_how_to_pool(tmp_path: Path, mode: str, normalize: bool) -> None:
    """Texts, a tokenizer that appends the end of sequence, and sentence-transformers' files."""
    folder = save_embedder(tmp_path, "qwen3", mode, normalize)
    llm = LLM(str(folder), dtype="float32", max_num_batched_tokens=16, kv_memory="1MiB")
    outputs = llm.embed(["a shoal of fish", "a shoal of it"], use_tqdm=False)
    for output in outputs:
        ids = output.prompt_token_ids
        assert ids[-1] == 1
        rows = hidden_states(folder, ids)
        expected = rows[-1] if mode == "lasttoken" else rows.mean(0)
        if normalize:
            expected = torch.nn.functional.normalize(expected, dim=0)
        found = torch.tensor(output.outputs.embedding)
        assert (found - expected).abs().max() < 1e-5


def test_dimensions_are_cut_before_the_length_is_made_one(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path, "qwen3", "lasttoken")
    llm = LLM(str(folder), dtype="float32", max_num_batched_tokens=16, kv_memory="1MiB")
    params = [PoolingParams(dimensions=8), PoolingParams(), PoolingParams(8, 5)]
    cut, whole, raw = llm.embed([[5, 6, 7]] * 3, pooling_params=[*params[:2], RAW])
    assert whole.outputs.hidden_size == 32
    rows = hidden_states(folder, [5, 6, 7])[-1]
    expected = torch.nn.functional.normalize(rows[:8], dim=0)
    assert (torch.tensor(cut.outputs.embedding) - expected).abs().max() < 1e-5
    assert (torch.tensor(raw.outputs.embedding) - rows).abs().max() < 1e-5
    for wrong in (0, 33, True):
        with pytest.raises(InvalidRequestError, match="from 1 to 32"):
            llm.embed([[5]], pooling_params=PoolingParams(dimensions=wrong))
    with pytest.raises(InvalidRequestError, match="use_activation must be"):
        llm.embed([[5]], pooling_params=params[2])  # type: ignore[arg-type]


def test_a_prompt_may_be_as_long_as_the_model(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "qwen3")
    longest = _tokens(256)
    llm = LLM(str(folder), runner="pooling", dtype="float32", kv_memory="1MiB")
    right, wrong, empty = llm.embed([longest, [*longest, 5], ""], pooling_params=RAW)
    expected = _expected(folder, [longest], "LAST")[0]
    assert np.abs(right.outputs.data - expected).max() < 1e-5
    assert wrong.error is not None
    assert wrong.error.code == "context_length_exceeded"
    assert "generate" not in wrong.error.message
    assert empty.error is not None
    assert (wrong.outputs.embedding, empty.outputs.embedding) == ([], [])


def test_a_model_does_one_of_both(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "qwen3")
    options = {"dtype": "float32", "kv_memory": "1MiB", "max_num_batched_tokens": 16}
    generates = LLM(str(folder), **options)
    with pytest.raises(OptionError, match='runner="pooling"'):
        generates.embed(["a"])
    embeds = LLM(str(folder), runner="pooling", **options)
    for call in (embeds.generate, embeds.chat):
        with pytest.raises(OptionError, match='runner="generate"'):
            call([{"role": "user", "content": "a"}])
    with pytest.raises(OptionError, match="gives embeddings"):
        embeds.classify(["a"])
    with pytest.raises(OptionError, match="not both"):
        LLM(str(folder), runner="generate", convert="embed")
    with pytest.raises(UnsupportedModelError, match="no classification head"):
        LLM(str(folder), convert="classify")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("runner", "draft", "runner must be one of"),
        ("task", "reward", "task='reward' is not supported"),
        ("pooler_config", {"pooling_type": "CLS"}, "LAST or MEAN"),
        ("pooler_config", {"step_tag_id": 3}, "step_tag_id is not supported"),
        ("hf_overrides", {"num_labels": 3}, "num_labels is not supported"),
        ("hf_overrides", {"method": "from_2_way_softmax"}, "need classifier_from_token"),
        ("tensor_parallel_size", 2, "tensor_parallel 2"),
    ],
)
def test_what_is_not_honoured_is_refused(
    tmp_path: Path, name: str, value: object, message: str
) -> None:
    folder = save_model(tmp_path, "qwen3")
    options: dict[str, Any] = {"runner": "pooling", name: value}
    with pytest.raises(OptionError, match=message):
        LLM(str(folder), **options)


def test_other_modules_of_sentence_transformers_are_refused(tmp_path: Path) -> None:
    folder = save_embedder(tmp_path, "qwen3", "lasttoken")
    stated = (folder / "1_Pooling" / "config.json").read_text()
    (folder / "1_Pooling" / "config.json").write_text(stated.replace("lasttoken", "cls_token"))
    with pytest.raises(UnsupportedModelError, match="pooling cls_token"):
        LLM(str(folder))
    modules = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(modules.replace("Normalize", "Dense"))
    (folder / "1_Pooling" / "config.json").write_text(stated)
    with pytest.raises(UnsupportedModelError, match="module Dense"):
        LLM(str(folder))
