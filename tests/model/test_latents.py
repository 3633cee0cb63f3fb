"""Models that keep latents (MLA) equal transformers' `generate`, and hold latents alone."""

from pathlib import Path

import pytest

from shoal import LLM, SamplingParams
from shoal.attention import latent
from shoal.config import EngineOptions
from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.models import LATENTS, forest_of_prompts, greedy, save_model

MAX_NEW_TOKENS = 12
SETTINGS = [
    {"sharing": "forest", "max_num_batched_tokens": 2048},
    {"sharing": "forest", "max_num_batched_tokens": 7},
    {"sharing": "single", "max_num_batched_tokens": 33, "order": "input"},
    {"sharing": "none", "max_num_batched_tokens": 48},
]


@pytest.mark.parametrize("family", LATENTS)
def test_equals_generate(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ample memory and in the least there may be; absorbed, expanded, and some of each."""
    model = save_model(tmp_path, family)
    prompts = forest_of_prompts(0)
    expected = [greedy(model, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    description = ModelDescription.load(str(model), EngineOptions(dtype="float32"))
    assert description.kv_bytes_per_token == 2 * (32 + 8) * 4
    largest = -(-(max(map(len, prompts)) + MAX_NEW_TOKENS - 1) // BLOCK_SIZE)
    block_bytes = BLOCK_SIZE * description.kv_bytes_per_token
    for number, settings in enumerate(SETTINGS):
        # The rows from which an item is expanded: none, those of some, all.
        monkeypatch.setattr(latent, "MORE_ROWS", (1e9, 0.3, 0.0, 0.1)[number])
        blocks = 1000 if number % 2 == 0 else largest + 1
        llm = LLM(
            str(model),
            dtype="float32",
            device="cpu",
            kv_memory=f"{blocks * block_bytes}B",
            **settings,
        )
        outputs = llm.generate(prompts, params, use_tqdm=False)
        assert [list(out.outputs[0].token_ids) for out in outputs] == expected, settings
