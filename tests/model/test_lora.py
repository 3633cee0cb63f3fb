"""Adapters, many in one batch: equal to peft token for token, adapter by adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from shoal import LLM, LoRARequest, SamplingParams
from shoal.model.lora import held_format
from shoal.model.lora.adapter_reader import AdapterReader
from shoal.model.lora.held_format import HeldFormat
from shoal.scheduler import BLOCK_SIZE
from shoal.scheduler.forecast import PeakForecast
from tests.helpers.lora import peft_greedy, save_adapter
from tests.helpers.models import forest_of_prompts, save_model

MAX_NEW_TOKENS = 8
PROMPTS = forest_of_prompts(0)[:16]
SETTINGS: list[dict[str, Any]] = [
    {"sharing": "forest", "max_num_batched_tokens": 2048},
    {"sharing": "forest", "max_num_batched_tokens": 33},
    {"sharing": "single", "max_num_batched_tokens": 65, "order": "input"},
    {"sharing": "none", "max_num_batched_tokens": 48, "order": "blend"},
]
ADAPTERS: dict[str, dict[str, Any]] = {
    "rank 8": {"r": 8, "lora_alpha": 16},
    "rank 64": {"r": 64, "lora_alpha": 96, "use_rslora": True, "stored": torch.bfloat16},
    "some layers": {
        "r": 8,
        "lora_alpha": 8,
        "targets": ["q_proj", "v_proj", "down_proj"],
        "rank_pattern": {"v_proj": 12},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 40},
        "layers_to_transform": [1],
    },
}


class Adapted:
    """A model with adapters, and what peft generates with each of them for every prompt."""

    def __init__(self, folder: Path, architecture: str, adapters: dict[str, dict[str, Any]]):
        self.model = save_model(folder / "model", architecture)
        self.requests: list[LoRARequest | None] = [None]
        paths: list[Path | None] = [None]
        for number, (name, config) in enumerate(adapters.items(), start=1):
            path = save_adapter(folder / str(number), self.model, number, **config)
            self.requests.append(LoRARequest(name, number, str(path)))
            paths.append(path)
        self.expected = [
            answer
            for path in paths
            for answer in peft_greedy(self.model, path, PROMPTS, MAX_NEW_TOKENS)
        ]
        self.prompts = PROMPTS * len(paths)
        self.loras = [request for request in self.requests for _ in PROMPTS]

    def llm(self, **options: Any) -> LLM:
        given = {"kv_memory": "4MiB", "max_num_batched_tokens": 65} | options
        return LLM(str(self.model), dtype="float32", device="cpu", enable_lora=True, **given)

    def answers(self, llm: LLM) -> list[list[int]]:
        params = SamplingParams(temperature=0.0, max_tokens=MAX_NEW_TOKENS)
        outputs = llm.generate(self.prompts, params, use_tqdm=False, lora_request=self.loras)
        return [list(out.outputs[0].token_ids) for out in outputs]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return Adapted(tmp_path_factory.mktemp("adapted"), "qwen3", ADAPTERS)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: each["sharing"])
def test_one_mixed_batch_equals_peft(adapted: Adapted, settings: dict[str, Any]) -> None:
    assert len({tuple(answer) for answer in adapted.expected}) > 3 * len(PROMPTS) // 2
    assert adapted.answers(adapted.llm(**settings)) == adapted.expected


def test_preempted_and_within_a_small_budget(
    adapted: Adapted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little KV memory, a forecast that hopes for the best, and memory for few adapters."""
    monkeypatch.setattr(PeakForecast, "fits", lambda self, blocks: self._least <= blocks)
    block_bytes = 2 * 2 * 2 * 16 * 4 * BLOCK_SIZE
    largest = -(-(max(map(len, PROMPTS)) + MAX_NEW_TOKENS - 1) // BLOCK_SIZE)
    llm = adapted.llm(kv_memory=f"{(largest + 2) * block_bytes}B", lora_memory="300KiB")
    assert adapted.answers(llm) == adapted.expected
    assert llm.last_run is not None
    assert llm.last_run.preemptions > 0


def test_slice_by_slice_equals_peft(adapted: Adapted, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch adds them, on CUDA and where there are no C++ kernels."""
    monkeypatch.setattr(held_format, "load_kernels", lambda: None)
    assert adapted.answers(adapted.llm()) == adapted.expected


def test_held_as_stored(adapted: Adapted) -> None:
    """A file in bfloat16 takes half the memory of one in float32."""
    config = AutoConfig.from_pretrained(adapted.model)
    held = HeldFormat.of(torch.float32, torch.device("cpu"))
    reader = AdapterReader(config, "model", held)
    taken = {
        each.lora_name: reader.read(each.lora_name, each.lora_path).num_bytes
        for each in adapted.requests
        if each is not None
    }
    assert taken["rank 64"] == 64 // 8 * taken["rank 8"] // (2 if held.grouped else 1)
