"""Every family in every way to run it: sharing, budgets, preemption, two devices, fused and not.

Each is past every threshold that its config names. In minutes: `make test-slow`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shoal.config import EngineOptions
from shoal.model import load
from shoal.model.description import ModelDescription
from shoal.scheduler import BLOCK_SIZE
from tests.helpers.models import (
    FAMILIES,
    KINDS,
    LATENTS,
    LENGTHS,
    forest_of_prompts,
    greedy,
    save_model,
)
from tests.model.test_kinds import NEW_TOKENS, SETTINGS, answers
from tests.model.test_length_switches import expected_of, prompts_around

QUICK = ["ministral3", "llama4", "gemma4 shared", "gpt_oss", "phi3 longrope"]
"""Of which the shortest run is no slow test: queries scaled by position twice, KV that is reused,
sinks, sequences computed anew."""


def smallest(model: Path, prompts: list[list[int]]) -> str:
    """KV memory for the longest request, so that others are preempted."""
    description = ModelDescription.load(str(model), EngineOptions(dtype="float32", device="cpu"))
    blocks = -(-(max(map(len, prompts)) + NEW_TOKENS - 1) // BLOCK_SIZE)
    return f"{blocks * description.kv_bytes_per_token * BLOCK_SIZE}B"


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES | KINDS | LENGTHS | LATENTS)
def test_equals_generate(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = save_model(tmp_path, family), prompts_around(4)
    expected = expected_of(model, prompts, family)
    least = smallest(model, prompts)
    ways: list[dict[str, Any]] = [*SETTINGS, {"kv_memory": least}, {"data_parallel_size": 2}]
    for settings in ways:
        assert answers(model, prompts, **settings) == expected, settings
    monkeypatch.setattr(load, "_can_fuse", lambda description: False)
    for settings in (ways[1], ways[-2]):
        assert answers(model, prompts, **settings) == expected, ("unfused", settings)


@pytest.mark.parametrize("family", QUICK)
def test_equals_generate_unfused_in_little_memory(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = save_model(tmp_path, family), forest_of_prompts(6, trees=1)
    expected = [greedy(model, prompt, NEW_TOKENS) for prompt in prompts]
    least = smallest(model, prompts)
    assert answers(model, prompts, kv_memory=least) == expected
    monkeypatch.setattr(load, "_can_fuse", lambda description: False)
    assert answers(model, prompts, kv_memory=least) == expected


@pytest.mark.parametrize(
    "family", [pytest.param("ministral3", marks=pytest.mark.slow), "gemma4 shared"]
)
def test_equals_generate_on_two_devices(tmp_path: Path, family: str) -> None:
    model, prompts = save_model(tmp_path, family), forest_of_prompts(7, trees=1)
    expected = [greedy(model, prompt, NEW_TOKENS) for prompt in prompts]
    assert answers(model, prompts, data_parallel_size=2) == expected
