"""Windows, chunks, sinks, head sizes by layer, composites and lengths over two processes.

Each is equal to `transformers`, or refused by name before its weights are read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal import LLM
from shoal.errors import OptionError, UnsupportedModelError
from tests.helpers.composites import COMPOSITES, greedy_composite, save_composite
from tests.helpers.models import KINDS, LENGTHS, forest_of_prompts, greedy, save_model
from tests.tensor_parallel.test_sharded import MAX_NEW_TOKENS, OPTIONS, tokens, two_processes

PROMPTS = forest_of_prompts(0)
FEW = ["gemma3", "llama4", "gemma4 shared", "granite_swa", "phi3 longrope", "llama dynamic rope"]
"""Windows; chunks and query scales; head sizes by layer and reused KV; sinks; lengths."""
REFUSED = {
    "gpt_oss": "no tensor parallel plan",
    "deepseek_v3, kimi k2": "keep one latent of each token",
    "gemma3n": "keep the largest activations of a width",
    "gemma4 keys as values": "4 query heads and 1 or 2 KV heads: this model cannot be split",
}
REFUSED_COMPOSITES = {
    "qwen3_vl": "no tensor parallel plan",
    "qwen3_vl_moe": "does not divide its experts' weights",
    "gemma4": "reads a token's row of the embeddings",
}
SLOW = [name for name in KINDS | LENGTHS if name not in FEW and name not in REFUSED]
SLOW_COMPOSITES = [
    name for name in COMPOSITES if name != "gemma3" and name not in REFUSED_COMPOSITES
]


def _slow(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("family", [*FEW, *_slow(SLOW)])
def test_equals_generate(tmp_path: Path, family: str) -> None:
    folder = save_model(tmp_path, family)
    with two_processes(folder) as llm:
        found = tokens(llm, PROMPTS)
    assert found == [[greedy(folder, prompt, MAX_NEW_TOKENS)] for prompt in PROMPTS]


@pytest.mark.parametrize("family", ["gemma3", *_slow(SLOW_COMPOSITES)])
def test_equals_the_composite(tmp_path: Path, family: str) -> None:
    folder = save_composite(tmp_path, family)
    with two_processes(folder) as llm:
        found = tokens(llm, PROMPTS)
    assert found == [[greedy_composite(folder, prompt, MAX_NEW_TOKENS)] for prompt in PROMPTS]


@pytest.mark.parametrize("family", [*REFUSED, *REFUSED_COMPOSITES])
def test_what_cannot_be_split_is_refused_by_name(tmp_path: Path, family: str) -> None:
    composite = family in REFUSED_COMPOSITES
    folder = (save_composite if composite else save_model)(tmp_path, family)
    with pytest.raises((UnsupportedModelError, OptionError)) as caught:
        LLM(str(folder), tensor_parallel_size=2, **OPTIONS)
    assert (REFUSED | REFUSED_COMPOSITES)[family] in str(caught.value)
