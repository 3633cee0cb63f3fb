"""Models that keep latents (MLA) equal transformers' `generate`, and hold latents alone."""

from pathlib import Path

import pytest
import torch
from transformers import DeepseekV3Config

from shoal import LLM, SamplingParams
from shoal.attention import KVShape, latent, select_backend
from shoal.attention.latent import LatentHeads
from shoal.config import EngineOptions
from shoal.errors import UnsupportedModelError
from shoal.model.description import ModelDescription
from shoal.model.layer_sizes import layer_sizes
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.models import LATENTS, forest_of_prompts, greedy, save_model

CPU = torch.device("cpu")
MAX_NEW_TOKENS = 12
DEEPSEEK_V3 = {
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
    "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
}  # fmt: skip
"""Of deepseek-ai/DeepSeek-V3's config.json, what its KV depends on."""
SETTINGS = [
    {"sharing": "forest", "max_num_batched_tokens": 2048},
    {"sharing": "forest", "max_num_batched_tokens": 7},
    {"sharing": "single", "max_num_batched_tokens": 33, "order": "input"},
    {"sharing": "none", "max_num_batched_tokens": 48},
    {"sharing": "paper", "max_num_batched_tokens": 65},
]
LEAST_ROWS = [1e9, 6, 0, 2, 5]
"""In each setting, the rows from which an item is expanded: none, those of some, all."""


@pytest.mark.parametrize("family", LATENTS)
def test_equals_generate(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ample memory and in the least there may be; absorbed, expanded, and some of each."""
    model = save_model(tmp_path, family)
    prompts = forest_of_prompts(4, trees=1)
    expected = [greedy(model, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    description = ModelDescription.load(str(model), EngineOptions(dtype="float32"))
    # LongCat's two layers attend twice each.
    memories = 4 if family == "longcat_flash" else 2
    assert description.kv_bytes_per_token == memories * (32 + 8) * 4
    largest = -(-(max(map(len, prompts)) + MAX_NEW_TOKENS - 1) // BLOCK_SIZE)
    block_bytes = BLOCK_SIZE * description.kv_bytes_per_token
    for number, settings in enumerate(SETTINGS):
        least = LEAST_ROWS[number]
        monkeypatch.setattr(latent.Expansion, "crossing", lambda self, rope, least=least: least)
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


def test_the_pool_holds_twenty_times_the_tokens() -> None:
    config = DeepseekV3Config(**DEEPSEEK_V3)
    kept = sum(layer.kv_numbers for layer in layer_sizes(config))
    assert kept == 61 * 576
    shape = KVShape(*LatentHeads(1, 576, 512), 4, BLOCK_SIZE, torch.bfloat16, CPU, latent=True)
    for backend in (select_backend(torch.bfloat16, CPU, [LatentHeads(1, 576, 512)]),):
        layer = backend.allocate(shape)
        stored = layer.keys.numel()
        if layer.values.untyped_storage().data_ptr() != layer.keys.untyped_storage().data_ptr():
            stored += layer.values.numel()
        # What a tile may read behind the pool is not the pool's.
        assert stored - 4 * BLOCK_SIZE * 576 <= 2 * 64
    expanded = 61 * 128 * (128 + 64 + 128)
    assert expanded / kept > 71


def test_another_form_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replacement that gives something else than the module's own is never taken."""
    model = save_model(tmp_path, "minicpm3")
    absorb = latent.Expansion.absorb
    monkeypatch.setattr(latent.Expansion, "absorb", lambda self, query: absorb(self, query) * 1.01)
    with pytest.raises(UnsupportedModelError, match="something else than by latents"):
        LLM(str(model), dtype="float32", device="cpu", kv_memory="4MiB")


def test_it_is_not_split_over_devices(tmp_path: Path) -> None:
    model = save_model(tmp_path, "minicpm3")
    with pytest.raises(UnsupportedModelError, match="which every device would have to hold whole"):
        ModelDescription.load(str(model), EngineOptions(tensor_parallel=2))
