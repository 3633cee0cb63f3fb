"""The engine over the Triton backend, under the interpreter, against transformers' `generate`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shoal import LLM, SamplingParams
from shoal.attention import AttentionBackend
from shoal.attention.backends import select_backend
from shoal.attention.latent import LatentAttention, LatentHeads
from shoal.attention.triton import Tiles, TritonAttention
from tests.helpers.models import forest_of_prompts, greedy, save_model

MAX_NEW_TOKENS = 4


@pytest.mark.parametrize(
    ("family", "sharing"),
    [
        ("llama", "forest"),
        ("llama", "none"),
        ("gemma2", "forest"),
        ("gpt_oss", "forest"),
        ("deepseek_v3, kimi k2", "forest"),
    ],
)
def test_equals_generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, sharing: str
) -> None:
    used: list[TritonAttention] = []

    def triton_on_cpu(
        _dtype: object, _device: object, layers: list[tuple[int, int, int]]
    ) -> AttentionBackend:
        used.append(TritonAttention(Tiles(32, 32, 4, 2, 1, sideways=True)))
        latent = any(isinstance(layer, LatentHeads) for layer in layers)
        return LatentAttention(used[-1]) if latent else used[-1]

    for module in list(sys.modules.values()):
        if getattr(module, "select_backend", None) is select_backend:
            monkeypatch.setattr(module, "select_backend", triton_on_cpu)
    folder = save_model(tmp_path, family)
    prompts = forest_of_prompts(0)[:8]
    # So small a pool is not calibrated with, which would take minutes here.
    llm = LLM(
        str(folder), dtype="float32", kv_memory="256KiB", sharing=sharing, max_num_batched_tokens=96
    )
    params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
    outputs = llm.generate(prompts, params, use_tqdm=False)
    expected = [greedy(folder, prompt, MAX_NEW_TOKENS) for prompt in prompts]
    assert [list(out.outputs[0].token_ids) for out in outputs] == expected
    assert used
