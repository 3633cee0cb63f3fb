"""Greedy float32 output equals transformers' `generate`, token for token, whatever is switched on."""

from pathlib import Path

import pytest

from shoal import LLM, SamplingParams
from tests.models import ARCHITECTURES, forest_of_prompts, greedy, save_model

MAX_NEW_TOKENS = 12
SETTINGS = [
    {"sharing": "forest", "token_budget": 2048},
    {"sharing": "forest", "token_budget": 7},
    {"sharing": "single", "token_budget": 33, "order": "input"},
    {"sharing": "paper", "token_budget": 65},
    {"sharing": "none", "token_budget": 48},
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.mark.parametrize("seed", [0])
def test_equals_generate(model: Path, seed: int) -> None:
    prompts = forest_of_prompts(seed)
    expected = [greedy(model, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    for settings in SETTINGS:
        llm = LLM(str(model), dtype="float32", device="cpu", kv_memory="4MiB", **settings)
        outputs = llm.generate(prompts, params, progress=False)
        assert [list(out.choices[0].token_ids) for out in outputs] == expected, settings
