"""Greedy float32 output equals transformers' `generate` token for token, whatever is on."""

from pathlib import Path

import pytest

from shoal import LLM, SamplingParams
from shoal.config import Sharing
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.combinations import WHOLE, in_turn
from tests.helpers.models import ARCHITECTURES, FAMILIES, forest_of_prompts, greedy, save_model

MAX_NEW_TOKENS = 12
SETTINGS = [
    {"sharing": "forest", "max_num_batched_tokens": 2048},
    {"sharing": "forest", "max_num_batched_tokens": 7},
    {"sharing": "single", "max_num_batched_tokens": 33, "order": "input"},
    {"sharing": "paper", "max_num_batched_tokens": 65},
    {"sharing": "none", "max_num_batched_tokens": 48},
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    folder = save_model(tmp_path_factory.mktemp("model"), request.param)
    return list(ARCHITECTURES).index(request.param), folder


@WHOLE
def test_equals_generate(model: tuple[int, Path], whole: bool) -> None:
    number, folder = model
    prompts = forest_of_prompts(0)
    expected = [greedy(folder, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    for settings in SETTINGS if whole else in_turn(SETTINGS, number):
        llm = LLM(str(folder), dtype="float32", device="cpu", kv_memory="4MiB", **settings)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        assert [list(out.outputs[0].token_ids) for out in outputs] == expected, settings


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_generate_past_every_threshold(tmp_path: Path, family: str) -> None:
    model = save_model(tmp_path, family)
    prompts = forest_of_prompts(4, trees=1)
    assert max(map(len, prompts)) > 64
    expected = [greedy(model, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    llm = LLM(
        str(model), dtype="float32", device="cpu", kv_memory="4MiB", max_num_batched_tokens=65
    )
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [list(out.outputs[0].token_ids) for out in outputs] == expected


@WHOLE
def test_equals_generate_in_any_kv_budget(tmp_path: Path, whole: bool) -> None:
    """From ample down to the one block more than the largest request needs."""
    model = save_model(tmp_path, "llama")
    prompts = forest_of_prompts(1)
    expected = [greedy(model, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    block_bytes = 2 * 2 * 2 * 8 * 4 * BLOCK_SIZE
    largest = -(-(max(map(len, prompts)) + MAX_NEW_TOKENS - 1) // BLOCK_SIZE)
    peaks = []
    for number, blocks in enumerate((largest, largest + 1, 2 * largest, 1000)):
        for sharing in Sharing if whole or blocks == largest else in_turn(list(Sharing), number, 1):
            llm = LLM(
                str(model), dtype="float32", kv_memory=f"{blocks * block_bytes}B", sharing=sharing
            )
            outputs = llm.generate(prompts, params, use_tqdm=False)
            assert [list(out.outputs[0].token_ids) for out in outputs] == expected
            assert llm.last_run is not None
            assert llm.last_run.peak_kv_bytes <= blocks * block_bytes
            peaks.append(llm.last_run.peak_kv_bytes)
    assert min(peaks) < max(peaks)
