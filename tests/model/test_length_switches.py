"""Frequencies that depend on a request's length: greedy tokens equal those of `generate`, alone.

They change at 64 tokens. Prompts are shorter and longer, some of the shorter grow past it, and
short and long ones begin with the same tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shoal import LLM, SamplingParams
from shoal.config import EngineOptions
from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.models import LENGTHS, VOCABULARY, greedy, oracle, save_model
from tests.model.test_kinds import NEW_TOKENS, SETTINGS, answers

THRESHOLD = 64


def prompts_around(seed: int) -> list[list[int]]:
    """Of 30 to 100 tokens: the first 30 are the same, and of some of them 50; some are equal."""
    rng = np.random.default_rng(seed)

    def tokens(count: int) -> list[int]:
        return rng.integers(2, VOCABULARY, count).tolist()

    top = tokens(30)
    inner = top + tokens(20)
    prompts = [top, top, inner, inner + tokens(14), inner + tokens(15)]
    prompts += [base + tokens(int(n)) for base in (top, inner) for n in rng.integers(1, 50, 5)]
    longest = inner + tokens(40)
    prompts += [longest, longest, longest + tokens(3)]
    return [prompts[i] for i in rng.permutation(len(prompts))]


def expected_of(model: Path, prompts: list[list[int]], family: str) -> list[list[int]]:
    """transformers 5.23 drops Phi-4-multimodal's cache with the token past the threshold, and goes
    on with that token alone. What it means is what it does without a cache."""
    use_cache = family != "phi4_multimodal"
    return [greedy(model, prompt, NEW_TOKENS, use_cache=use_cache) for prompt in prompts]


@pytest.mark.parametrize("family", LENGTHS)
def test_equals_generate(tmp_path: Path, family: str) -> None:
    model, prompts = save_model(tmp_path, family), prompts_around(0)
    lengths = list(map(len, prompts))
    assert min(lengths) + NEW_TOKENS < THRESHOLD < max(lengths)
    assert any(length <= THRESHOLD < length + NEW_TOKENS - 1 for length in lengths)
    expected = expected_of(model, prompts, family)
    for settings in SETTINGS:
        assert answers(model, prompts, **settings) == expected, settings


@pytest.mark.parametrize("family", ["phi3 longrope", "llama dynamic rope"])
def test_equals_generate_in_any_kv_budget(tmp_path: Path, family: str) -> None:
    model, prompts = save_model(tmp_path, family), prompts_around(1)
    expected = expected_of(model, prompts, family)
    description = ModelDescription.load(str(model), EngineOptions(dtype="float32", device="cpu"))
    block = description.kv_bytes_per_token * BLOCK_SIZE
    largest = -(-(max(map(len, prompts)) + NEW_TOKENS - 1) // BLOCK_SIZE)
    for blocks in (largest, largest + 2):
        found = answers(model, prompts, kv_memory=f"{blocks * block}B")
        assert found == expected, blocks


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=() if name == "phi3 longrope" else pytest.mark.slow)
        for name in LENGTHS
    ],
)
def test_equals_generate_on_two_devices(tmp_path: Path, family: str) -> None:
    model, prompts = save_model(tmp_path, family), prompts_around(2)
    expected = expected_of(model, prompts, family)
    assert answers(model, prompts, data_parallel_size=2) == expected


def test_choices_of_a_request_that_grow_past_the_threshold(tmp_path: Path) -> None:
    """Each is computed anew by itself, with what it sampled; logprobs are those of transformers."""
    model, prompt = save_model(tmp_path, "phi3 longrope"), (prompts_around(3)[0] * 2)[:60]
    params = SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=NEW_TOKENS, logprobs=0)
    llm = LLM(str(model), dtype="float32", device="cpu", kv_memory="4MiB")
    choices = llm.generate([prompt], params, use_tqdm=False)[0].outputs
    assert llm.last_run is not None
    assert llm.last_run.tokens.recomputed == 3 * len(prompt)
    llm.close()
    assert len({tuple(choice.token_ids) for choice in choices}) == 3
    for choice in choices:
        assert choice.logprobs is not None
        tokens = list(choice.token_ids)
        for at, token in enumerate(tokens):
            with torch.inference_mode():
                logits = oracle(model)(torch.tensor([prompt + tokens[:at]])).logits[0, -1]
            expected = float(logits.log_softmax(-1)[token])
            assert choice.logprobs[at][token].logprob == pytest.approx(expected, abs=1e-3)
