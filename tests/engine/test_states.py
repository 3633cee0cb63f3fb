"""Models with recurrent layers answer as `transformers`' `generate` does, token for token.

Prompts are of nested segments, some shorter than the convolution looks back; chunks end anywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.model.description import ModelDescription
from shoal.prompts import length_rules
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.models import VOCABULARY, greedy, save_model
from tests.helpers.recurrent_models import RECURRENT

NEW_TOKENS = 8
QUICK = ["qwen3_5", "falcon_h1", "lfm2"]
"""One of each kind of layer; they are tried with all settings."""
SETTINGS = [
    {"max_num_batched_tokens": 64},
    {"max_num_batched_tokens": 7, "sharing": "single"},
    {"max_num_batched_tokens": 1},
]


def prompts() -> list[list[int]]:
    """Two segments within a third, each with users; two prompts are whole segments."""
    rng = np.random.default_rng(5)

    def tokens(count: int) -> list[int]:
        return rng.integers(2, VOCABULARY, count).tolist()

    top = tokens(70)
    inner = [top + tokens(2), top + tokens(45)]
    found = [tokens(90), top, inner[1], inner[1]]
    for stem in (top, inner[0], inner[0] + tokens(40)):
        found += [stem + tokens(count) for count in (1, 33)]
    return found


@pytest.fixture(scope="module", params=QUICK)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    return [greedy(model, prompt, NEW_TOKENS) for prompt in prompts()]


def answers(llm: LLM, asked: list[list[int]]) -> list[list[int]]:
    """Greedy answers of `NEW_TOKENS` tokens at most."""
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in asked], params)
    return [list(output.outputs[0].token_ids) for output in outputs]


def tight(model: Path, blocks: int, states: int) -> str:
    """KV memory for so many blocks and states."""
    description = ModelDescription.load(str(model), EngineOptions(dtype="float32", device="cpu"))
    block = description.kv_bytes_per_token * BLOCK_SIZE
    return f"{block * blocks + description.state_bytes * states}B"


@pytest.mark.long
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_equals_generate(
    model: Path, expected: list[list[int]], settings: dict[str, object]
) -> None:
    llm = LLM(str(model), dtype="float32", device="cpu", kv_memory="8MiB", **settings)
    assert answers(llm, prompts()) == expected
    llm.close()


@pytest.mark.long
def test_equals_generate_in_little_memory(model: Path, expected: list[list[int]]) -> None:
    """Sequences wait for states, and are preempted."""
    memory = tight(model, 9, 5)
    llm = LLM(
        str(model), dtype="float32", device="cpu", kv_memory=memory, max_num_batched_tokens=16
    )
    assert answers(llm, prompts()) == expected
    llm.close()


@pytest.mark.long
def test_equals_generate_preempted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers grow longer than was expected of them: states are given up and computed again."""
    monkeypatch.setattr(length_rules, "UNSTATED_EXPECTED_TOKENS", 1)
    model, longest = save_model(tmp_path, "qwen3_5"), 160
    asked = [prompt for prompt in prompts() if len(prompt) > 85 and len(prompt) < longest]
    expected = [greedy(model, prompt, longest - len(prompt)) for prompt in asked]
    params = SamplingParams(temperature=0, max_tokens=None)
    preemptions = 0
    for blocks, states in ((8, 7), (7, 3)):
        llm = LLM(
            str(model), dtype="float32", device="cpu", kv_memory=tight(model, blocks, states),
            max_num_batched_tokens=32, max_model_len=longest,
        )  # fmt: skip
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in asked], params)
        assert [list(output.outputs[0].token_ids) for output in outputs] == expected
        assert llm.last_run is not None
        preemptions += llm.last_run.preemptions
        llm.close()
    assert preemptions > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(set(RECURRENT) - set(QUICK)))
def test_other_families(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, family)
    expected = [greedy(folder, prompt, NEW_TOKENS) for prompt in prompts()]
    for settings in SETTINGS[:2]:
        llm = LLM(str(folder), dtype="float32", device="cpu", kv_memory="8MiB", **settings)
        assert answers(llm, prompts()) == expected
        llm.close()
